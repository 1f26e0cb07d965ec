"""TEST, answered: the runs that the report compares, by real generation, and the ablations by the next token.

With a writer, the steered runs' calls are written under the tools' grammar; the baseline is the model as it is. Each
run is a checkpoint or a part of one. TEST's requests are prefilled once, and only if something is missing.
"""

from dataclasses import dataclass

import numpy as np

from asa.adapter import ASAAdapter, Decision
from asa.data.requests import Request
from asa.data.splits import Split
from asa.engine.answering import answer_all, answer_steered
from asa.engine.batch import Batch
from asa.engine.calling import CallWriter
from asa.engine.states import Prefilled, Reading
from asa.evaluation.ablations import Steered, run_ablations
from asa.method.recipe import Recipe
from asa.method.tool_choice import ROUTED, held_tools
from asa.method.tuning import Setting
from asa.models.answers import AnswerRules
from asa.support.checkpoints import Checkpoints
from asa.support.files import key_of

RUNS = ("baseline", "asa_paper", "asa")  # what generates


@dataclass(frozen=True)
class Answered:
    """TEST's answers.

    Attributes:
        answers: Run -> `[N]` generated ids.
        decisions: `[N]`, of the adapter.
        p_own: `[N]`, what the probe of each request's own domain says.
        ablations: Ablation -> `[N]` bool, whether the next token opens a call.
    """

    answers: dict[str, list[list[int]]]
    decisions: list[Decision]
    p_own: list[float]
    ablations: dict[str, list[bool]]


def steered_parts(recipe: Recipe, setting: Setting) -> Steered:
    """What a setting's ablations are made from."""
    directions = recipe.directions(setting.direction, setting.layer)
    return Steered(setting, recipe.readers(setting.layer), recipe.shared_readers(setting.layer), directions)


def calls_written(
    said: list[list[int]], requests: list[Request], decisions: list[Decision], sure: float, writer: CallWriter
) -> list[list[int]]:
    """Answers `[N]` with their calls written anew, by the router's tools."""
    return writer.write(said, requests, [held_tools(ROUTED, writer.tools, made, sure) for made in decisions])


def steered_answers(
    batches: list[Batch],
    reading: Reading,
    adapters: dict[str, ASAAdapter],
    unsteered: list[list[int]],
    requests: list[Request],
    rules: AnswerRules,
    what: str,
    writer: CallWriter | None = None,
    sure: float = 0.0,
) -> dict[str, tuple[list[list[int]], list[Decision]]]:
    """As `answer_steered`, the calls written by `writer` where there is one; arguments as of `answer_test`."""
    ended = rules.ended if writer is None else rules.settled  # the writer needs no more than the decision
    found = answer_steered(batches, reading, adapters, unsteered, rules.limit, ended, what)
    if writer is None:
        return found
    return {run: (calls_written(said, requests, made, sure, writer), made) for run, (said, made) in found.items()}


def answer_test(
    test: Split,
    prefilled: Prefilled,
    recipe: Recipe,
    chosen: Setting,
    adapters: dict[str, ASAAdapter],
    rules: AnswerRules,
    checkpoints: Checkpoints,
    keys: tuple[str, str],
    seed: int,
    writer: CallWriter | None = None,
    sure: float = 0.0,
) -> Answered:
    """Answer TEST without steering and with each adapter, and ask for the ablations' next token.

    Args:
        test: The requests.
        prefilled: Their prompts.
        recipe: Fits readers and directions.
        chosen: The setting of the `asa` adapter.
        adapters: `asa` and `asa_paper`; the same object where both are one.
        rules: What belongs to answers.
        checkpoints: Where answers are kept.
        keys: What the baseline depends on, and what the steered runs do besides.
        seed: Of the random directions.
        writer: Writes the steered runs' calls; None: the model writes them freely.
        sure: How sure the router must be to say which tool (`tool_choice`).
    """
    first, more = keys
    plain = checkpoints.stage(
        "baseline", first, lambda: {"answers": answer_all(prefilled.batches, rules.limit, rules.ended, "TEST baseline")}
    )["answers"]

    def steered() -> dict:
        states = prefilled.reading.states
        same = adapters["asa_paper"] is adapters["asa"]  # greedy: the same setting gives the same answers
        runs = {"asa": adapters["asa"]} if same else adapters
        said = steered_answers(
            prefilled.batches, prefilled.reading, runs, plain, test.requests, rules, "TEST, steered", writer, sure
        )
        found: dict[str, list] = {run: said["asa" if same else run][0] for run in adapters}
        found["decisions"] = [vars(decision) for decision in said["asa"][1]]
        parts = steered_parts(recipe, chosen)
        ablated = run_ablations(prefilled.batches, states, parts, test.domains, rules.trigger_id, seed)
        own = np.array([recipe.domains.index(domain) for domain in test.domains])
        p_own = recipe.readers(chosen.layer).p_tool(states[:, chosen.layer], own)
        return found | {
            "ablations": {name: called.tolist() for name, called in ablated.items()}, "p_own": p_own.tolist()
        }  # fmt: skip

    kept = checkpoints.stage("test", key_of(first, more), steered)
    answers = {"baseline": plain, "asa_paper": kept["asa_paper"], "asa": kept["asa"]}
    return Answered(answers, [Decision(**each) for each in kept["decisions"]], kept["p_own"], kept["ablations"])
