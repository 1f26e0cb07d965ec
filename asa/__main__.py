"""Command line: `python -m asa evaluate` scores a saved adapter on any labelled file.

The adapter's own config says which model, prompt and tools it was fitted with, so nothing else is needed; `--model`
says where the model is if it has moved. Both runs are real greedy generations on the same prompts; nothing is fitted
or chosen.
"""

from asa.support.environment import share_cores

share_cores()  # before torch is loaded

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from asa.adapter import ASAAdapter
from asa.adapter_files import written_by
from asa.data.examples import without_examples
from asa.data.requests import Request, RequestsError, load_requests
from asa.engine.answering import answer_all, answer_steered
from asa.engine.engine import Engine
from asa.engine.states import read_prompts
from asa.evaluation.metrics import mcnemar, trigger_metrics, why_missing
from asa.evaluation.tables import rate_lines
from asa.evaluation.validity import call_validity
from asa.hook import AdapterError
from asa.models.answers import AnswerRules
from asa.models.fitting import fitting_prompts, shared_prefix
from asa.models.loading import hub_answers, load_model
from asa.models.profiles import Profile, ProfileError
from asa.models.prompts import Prompter, PromptError
from asa.models.saved_profiles import profile_found, profile_from_json
from asa.support.files import UserError
from asa.support.parameters import given_path
from asa.support.processes import print_any_text
from asa.tools.definitions import Tool, tools_from_json


def evaluate(assets: str | Path, requests_file: str | Path, model_id: str = "") -> dict:
    """Score baseline and steered generation on labelled requests.

    Args:
        assets: Adapter folder or hub id.
        requests_file: JSON lines with `text`, `label` and, optionally, `domain`.
        model_id: Model folder or hub id in place of the one that the adapter names; it must hold the same model.

    Returns:
        `n`, how many are scored, `left_out`, how many are not since the prompt's examples hold their like, and
        `metrics.trigger_metrics` for `baseline`, `probe` (its decision alone) and `asa`, with
        `validity` of the calls and `mcnemar`. A rate without a denominator is None.

    Raises:
        AdapterError: The adapter or the model does not fit.
        RequestsError: The requests cannot be used.
        ProfileError: The model's folder is gone.
        ModelError: The model is not available or cannot be used.
        PromptError: Its tokenizer or chat template does not fit, or its prompts are not those of the fit.
        ToolsError: The adapter's tools cannot be used.
    """
    assets, requests_file = given_path("--assets", assets), given_path("--requests", requests_file)
    adapter = ASAAdapter.from_pretrained(assets)
    requests = load_requests(requests_file)
    saved, tools, expected = fitted_with(adapter, f"{assets}/config.json")
    profile = profile_found(saved, assets, adapter.config.get("model_source", ""), model_id.strip())
    given = len(requests)
    if profile.few_shot:
        requests = unseen_requests(requests, tools, requests_file)
    model, tokenizer, _ = load_model(profile, hub_answers())
    adapter.check_model(model)
    prompter = Prompter(tokenizer, profile, tools)
    found = prompter.key()
    if found != expected:
        raise PromptError(
            f"{profile.model_id}: expected the prompt that the adapter was fitted with ({expected}), found another one "
            f"({found}): load the tokenizer and chat template of that time, or fit again."
        )
    prompts = fitting_prompts(prompter, model, requests)
    rules = AnswerRules(prompter, model)
    reading, batches = read_prompts(Engine(model, shared_prefix(prompts)), prompts, rules.trigger_id, "prefill")
    plain = answer_all(batches, rules.limit, rules.ended, "baseline")
    asked = (batches, reading.states, {"asa": adapter}, plain, rules.limit, rules.ended, "ASA")
    steered, decisions = answer_steered(*asked)["asa"]
    labels = np.array([request.label for request in requests])
    called = {
        "baseline": rules.called(plain),
        "probe": np.array([decision.p_tool >= 0.5 for decision in decisions]),
        "asa": rules.called(steered),
    }
    result: dict = {"n": len(requests), "left_out": given - len(requests)}
    result |= {run: trigger_metrics(calls, labels, seed=0) for run, calls in called.items()}
    for run, answers in (("baseline", plain), ("asa", steered)):
        result[run]["validity"] = call_validity([rules.text(ids) for ids in answers], tools, rules.markers)
    result["mcnemar"] = mcnemar(called["baseline"], called["asa"], labels)
    return result


def fitted_with(adapter: ASAAdapter, path: str) -> tuple[Profile, dict[str, Tool], str]:
    """Profile, tools and prompt hash that an adapter was fitted with; `path` names its config in errors.

    Raises:
        AdapterError: One is missing or cannot be read, perhaps since another version wrote it.
        ToolsError: A tool cannot be used.
    """
    config = adapter.config
    for name in ("prompt_hash", "model_source"):
        if not isinstance(config.get(name, ""), str):
            raise AdapterError(f"{path}{written_by(config)}: {name} is {config[name]!r}: fit again with this version.")
    try:
        return profile_from_json(config["profile"]), tools_from_json(config["tools"], path), config["prompt_hash"]
    except KeyError as error:
        raise AdapterError(f"{path}{written_by(config)}: {error} is missing: fit again with this version.") from error
    except ProfileError as error:
        raise AdapterError(f"{path}{written_by(config)}: {error}: fit again with this version.") from error


def unseen_requests(requests: list[Request], tools: dict[str, Tool], requests_file: str) -> list[Request]:
    """Those whose answers the prompt's examples do not give away; what is left out is said.

    Raises:
        RequestsError: None is left.
    """
    unseen = without_examples(requests, tools)
    if not unseen:
        raise RequestsError(f"{requests_file}: all requests resemble the prompt's examples: give others to score.")
    if len(unseen) < len(requests):
        kept = set(unseen)
        seen = [request.source for request in requests if request not in kept]
        named = ", ".join(seen[:5]) + (", ..." if len(seen) > 5 else "")
        print(f"left out, since the prompt's examples hold their like: {named} ({len(seen)} in all)", file=sys.stderr)
    return unseen


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="asa", description="Activation-steering adapters for tool calling.")
    command = parser.add_subparsers(required=True, metavar="COMMAND").add_parser("evaluate", help="score an adapter")
    command.add_argument("--assets", required=True, help="adapter folder or hub id")
    command.add_argument("--requests", required=True, help="JSON lines with text, label and optionally domain")
    command.add_argument("--model", default="", help="model folder or hub id, in place of the one the adapter names")
    command.add_argument("--json", action="store_true", help="print JSON")
    print_any_text()
    options = parser.parse_args()
    try:
        result = evaluate(options.assets, options.requests, options.model)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    runs = {run: result[run] for run in ("baseline", "probe", "asa")}
    if options.json:
        print(json.dumps(result, indent=2, allow_nan=False))
        for sentence in why_missing(runs):
            print(sentence, file=sys.stderr)
    else:
        print(rate_lines(runs, ("precision", "recall", "f1", "fpr")))
    return 0


def run() -> None:
    """The installed command `asa`."""
    sys.exit(main())


if __name__ == "__main__":
    run()
