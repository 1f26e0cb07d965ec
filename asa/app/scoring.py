"""Scoring: a saved adapter on any labelled file, with the model's own answers beside it.

The adapter's own config says which model, prompt and tools it was fitted with, so nothing else is needed. Both runs are
real greedy generations on the same prompts; nothing is fitted or chosen.
"""

import sys
from pathlib import Path

import numpy as np

from asa.adapter import ASAAdapter
from asa.app.assistant import assistant_of
from asa.app.fitted import fitted_with
from asa.data.examples import without_examples
from asa.data.requests import Request, RequestsError, load_requests
from asa.engine.answering import answer_all
from asa.engine.calling import CallWriter
from asa.engine.engine import Engine
from asa.engine.states import read_prompts
from asa.evaluation.answered import steered_answers
from asa.evaluation.metrics import mcnemar, trigger_metrics
from asa.evaluation.targets import reliability, target_rates
from asa.evaluation.validity import call_validity
from asa.models.answers import AnswerRules
from asa.models.fitting import fitting_prompts, shared_prefix
from asa.support.parameters import given_path
from asa.tools.definitions import Tool


def evaluate(assets: str | Path, requests_file: str | Path, model_id: str = "") -> dict:
    """Score baseline and steered generation on labelled requests.

    Args:
        assets: Adapter folder or hub id.
        requests_file: Labelled requests, as `data.requests.load_requests` takes them.
        model_id: Model folder or hub id in place of the one that the adapter names; it must hold the same model.

    Returns:
        `n`, how many are scored, `left_out`, how many are not since the prompt's examples resemble them, and
        `metrics.trigger_metrics` for `baseline`, `probe` (its decision alone) and `asa`, with `validity` of the calls,
        `mcnemar`, `targets.reliability`, and `targets.target_rates` as `target_fpr`, where the adapter is calibrated.
        A rate without a denominator is None. The adapter's calls are written as the assistant writes them.

    Raises:
        AdapterError, ModelError, ProfileError, PromptError, ToolsError: As `asa.load`.
        RequestsError: The requests cannot be used.
        GrammarError: Calls cannot be held to the tools' schemas here.
    """
    assets, requests_file = given_path("--assets", assets), given_path("--requests", requests_file)
    adapter = ASAAdapter.from_pretrained(assets)
    requests = load_requests(requests_file)
    profile, tools, _ = fitted_with(adapter, f"{assets}/config.json")
    given = len(requests)
    if profile.few_shot:
        requests = unseen_requests(requests, tools, requests_file)
    assistant = assistant_of(adapter, assets, model_id)
    model, prompter = assistant.model, assistant.prompter
    prompts = fitting_prompts(prompter, model, requests)
    rules = AnswerRules(prompter, model)
    reading, batches = read_prompts(Engine(model, shared_prefix(prompts)), prompts, rules.trigger_id, "prefill")
    plain = answer_all(batches, rules.limit, rules.ended, "baseline")
    choice = adapter.config.get("tool_choice", {})
    writer = CallWriter(model, prompter, rules) if choice else None
    asked = (batches, reading, {"asa": adapter}, plain, requests, rules, "ASA", writer, choice.get("sure", 0.0))
    steered, decisions = steered_answers(*asked)["asa"]
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
    result["reliability"] = reliability(np.array([decision.p_tool for decision in decisions]), labels)
    result["mcnemar"] = mcnemar(called["baseline"], called["asa"], labels)
    if adapter.config.get("calibration"):  # older adapters have none
        result["target_fpr"] = target_rates(adapter, decisions, labels)
    return result


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
        print(f"left out, since the prompt's examples resemble them: {named} ({len(seen)} in all)", file=sys.stderr)
    return unseen
