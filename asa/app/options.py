"""Options: what the notebook's form or the command line asks of the pipeline. No model is looked for here.

A form is checked before any work is done; what is clear is converted, and anything else is refused in one sentence.
"""

import os
from argparse import ArgumentParser
from dataclasses import dataclass, replace

from asa.models.profiles import LIQUID, PROMPT_STYLES, given_profile
from asa.support.files import shipped
from asa.support.parameters import (
    ParameterError,
    given_layers,
    given_path,
    one_of,
    output_folder,
    whole_number,
    yes_or_no,
)

TOOLS = "data/tools.json"
WRITTEN = ("checkpoints", "asa_assets")  # folders in the output folder
MADE_WITH = ("layers", "prompt-style", "device-map")  # change a run's numbers, and its results name them
ASKED = {  # field -> what the command line says of it
    "profile": "auto, embedded, gemma3-270m, lfm2.5, a hub id or a model folder",
    "prompt_style": "liquid or original, for LFM2 models",
    "alpaca": "Alpaca as a parquet file",
    "requests": "your own labelled requests: JSON lines, JSON, CSV, TSV, Parquet or hub:owner/name",
    "tools": "tool schemas as JSON, or module:functions",
    "out": "output folder",
    "layers": "layers to try steering at, such as 8,12; empty: the sweep chooses",
    "device_map": "auto: spread a model larger than one card over all cards",
    "proof": "steering: rivals and ablations; all: also LoRA, other splits, labels and prompts",
}


@dataclass(frozen=True)
class Options:
    """What to run, by the names of the notebook's form, where each is explained; as given until `checked`."""

    profile: str
    prompt_style: str
    alpaca: str
    requests: str
    tools: str
    out: str
    layers: str
    device_map: str
    proof: str
    grammar: bool
    quick: bool
    seed: int
    demo_rows: int
    chat: bool

    def from_command_line(self) -> "Options":
        """These, but for what the command line gives."""
        parser = ArgumentParser(description="Fit, tune, test and save an activation-steering adapter for tool calling.")
        default = vars(self) | {"alpaca": os.environ.get("ASA_ALPACA", self.alpaca)}
        for name, says in ASKED.items():
            parser.add_argument(f"--{name.replace('_', '-')}", default=default[name], help=says)
        parser.add_argument(
            "--quick",
            action="store_true",
            default=self.quick,
            help="a first look: fewer requests and settings, into OUT/quick",
        )
        parser.add_argument("--no-grammar", action="store_true", help="let the model write ASA's calls as it likes")
        given = vars(parser.parse_args())
        return replace(self, grammar=False if given.pop("no_grammar") else self.grammar, **given)

    def asked(self) -> dict[str, str]:
        """Those of `MADE_WITH` that were given."""
        given = {name: getattr(self, name.replace("-", "_")) for name in MADE_WITH}
        return {name: value for name, value in given.items() if value not in ("", LIQUID)}

    def checked(self) -> "Options":
        """As the pipeline takes them: converted, `tools` where the file is, `out` the folder that is written.

        Raises:
            ParameterError: A value is of no use, or the folder cannot be written.
        """
        quick, proof = yes_or_no("QUICK", self.quick), one_of("PROOF", self.proof, ("", "steering", "all"))
        if quick and proof:
            raise ParameterError("QUICK and PROOF are both set: a quick look proves nothing, so leave one of them out.")
        tools = given_path("TOOLS", self.tools, TOOLS)
        return Options(
            profile=given_profile("PROFILE", self.profile),
            prompt_style=one_of("PROMPT_STYLE", self.prompt_style, PROMPT_STYLES),
            alpaca=given_path("ALPACA", self.alpaca),
            requests=given_path("REQUESTS", self.requests),
            tools=tools if tools != TOOLS else shipped(TOOLS),
            out=output_folder("OUT", self.out, "outputs", WRITTEN) + ("/quick" if quick else ""),
            layers=given_layers("LAYERS", self.layers),
            device_map=one_of("DEVICE_MAP", self.device_map, ("", "auto")),
            proof=proof,
            grammar=yes_or_no("GRAMMAR", self.grammar, True),
            quick=quick,
            seed=whole_number("SEED", self.seed, 0),
            demo_rows=whole_number("DEMO_ROWS", self.demo_rows, 6),
            chat=yes_or_no("CHAT", self.chat),
        )

    @property
    def mark(self) -> str:
        """What stands wherever a quick look's numbers do; "" otherwise."""
        return "quick look: few requests and settings, rough numbers" if self.quick else ""
