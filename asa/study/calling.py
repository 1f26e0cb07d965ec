"""Calls, step by step: what each part of writing them adds, from the model alone to ASA with all of it.

Every rung is the answers of TEST, of which some call; only what stands behind the trigger differs. Nothing is chosen
here, and whether to call is never touched.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from asa.adapter import Decision
from asa.data.references import Reference
from asa.data.splits import Split
from asa.engine.calling import CallWriter
from asa.evaluation.answered import calls_written
from asa.evaluation.calls import call_steps
from asa.models.answers import AnswerRules
from asa.models.layout import CausalModel
from asa.models.prompts import Prompter
from asa.tools.definitions import Tool
from asa.tools.schemas import shown_schema

Kept = Callable[[str, Callable[[], list[list[int]]]], list[list[int]]]


def plain_tools(tools: Mapping[str, Tool]) -> dict[str, Tool]:
    """Tools whose schemas say no more of an argument than the prompt shows."""
    return {name: replace(tool, parameters=shown_schema(tool.parameters)) for name, tool in tools.items()}


def grammar_alone(model: CausalModel, prompter: Prompter, rules: AnswerRules) -> CallWriter:
    """What holds calls to plain schemas, in the prompt in which the model decided."""
    return CallWriter(model, prompter, rules, plain_tools(prompter.tools), own_prompt=False)


def freely_written(said: list[list[int]], test: Split, writer: CallWriter) -> list[list[int]]:
    """Answers `[N]` with their calls written anew, which may name any tool."""
    return writer.write(said, test.requests, [tuple(writer.tools)] * len(said))


def call_rungs(
    free: Mapping[str, list[list[int]]],
    written: list[list[int]],
    forced: list[list[int]],
    test: Split,
    decisions: list[Decision],
    sure: float,
    writer: CallWriter,
    kept: Kept,
) -> dict[str, list[list[int]]]:
    """Rung -> answers `[N]`.

    Args:
        free: `baseline` and `ASA`, their calls written freely.
        written: ASA's as the pipeline answers.
        forced: Where the gate forces or forbids the trigger in place of a push.
        test: The requests.
        decisions: `[N]`, of the adapter.
        sure: How sure the router must be.
        writer: Writes calls as the pipeline does.
        kept: Gives a rung's answers by its name, and makes them where they are not kept.
    """
    grammar = grammar_alone(writer.model, writer.prompter, writer.rules)
    schemas = CallWriter(writer.model, writer.prompter, writer.rules, own_prompt=False)
    oracle = [replace(made, domain=domain, p_domain=1.0) for made, domain in zip(decisions, test.domains, strict=True)]

    def routed(name: str, said: list[list[int]], by: CallWriter, made: list[Decision] = decisions) -> list[list[int]]:
        return kept(name, lambda: calls_written(said, test.requests, made, sure, by))

    baseline, asa = free["baseline"], free["ASA"]
    return {
        "baseline": baseline,
        "baseline + grammar": kept("baseline + grammar", lambda: freely_written(baseline, test, grammar)),
        "ASA, free calls": asa,
        "ASA + grammar": kept("ASA + grammar", lambda: freely_written(asa, test, grammar)),
        "+ the router's tool": routed("+ the router's tool", asa, grammar),
        "+ schemas": routed("+ schemas", asa, schemas),
        "+ a prompt of its own": written,
        "the same, the right tool given": routed("the right tool given", asa, writer, oracle),
        "forced trigger with all of it": routed("forced trigger with all of it", forced, writer),
    }


def rungs_scored(
    written: Mapping[str, list[list[int]]], test: Split, writer: CallWriter, references: dict[str, Reference]
) -> dict[str, dict]:
    """Rung -> `call_steps` of its answers."""
    rules, tools = writer.rules, writer.prompter.tools
    return {
        name: call_steps(test.requests, [rules.text(ids) for ids in said], tools, rules.markers, references)
        for name, said in written.items()
    }
