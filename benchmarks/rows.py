"""The rows that compare both sides on the model: states, a sweep setting and answers.

Every function measures one kind of work and checks that both sides say the same. A faster path that differed by more
than rounding would show here as `equal: false`; a differing answer is reported with how close the scores of the two
tokens were.
"""

import numpy as np
import torch
from bench import Bench, Compared, Row, Sizes, compare, spread
from plain import PlainHook, answer, hook_of, last_token, next_token, score_gap

from asa.adapter import ASAAdapter
from asa.blocks import final_norm
from asa.engine import Engine
from asa.running import answer_all, answer_steered, read_prompts, read_states
from asa.tuning import replay_triggers

TOLERANCE = 1e-4  # largest difference of a state, relative to its layer's largest entry


def extraction(bench: Bench, sizes: Sizes) -> tuple[Row, Compared]:
    """Last-token states of all layers."""
    prompts = [bench.everything[row] for row in spread(bench.everything, sizes.states)]

    def ours() -> list:
        return list(read_states(Engine(bench.model, bench.prefix), prompts, bench.trigger_id, "states").states)

    both = compare(
        prompts, sizes.rounds, sizes.sampled_states, ours, lambda row: last_token(bench.model, prompts[row])[0]
    )
    worst = np.max([state_difference(bench.model, both.ours[row], theirs) for row, theirs in both.theirs.items()], 0)
    largest = max(float(np.abs(theirs).max()) for theirs in both.theirs.values())
    note = (
        f"the prefix' prefill included; {_sampled(both)}; equal: within {TOLERANCE:.0e} of the layer's largest entry; "
        f"largest difference of a state {worst[0]:.1e} (entries up to {largest:.0f}), in that measure {worst[1]:.1e}"
    )
    work = f"last-token states, all layers, {len(prompts)} requests"
    return Row(work, both.ours_s, both.theirs_s, "10 x", bool(worst[1] <= TOLERANCE), note), both


def state_difference(model, ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Largest difference of states `[layers, H]`: as it is, and relative to the largest entry of its layer.

    A model puts its last state out behind the final norm, so ours goes through it too.
    """
    with torch.no_grad():
        normed = final_norm(model)(torch.from_numpy(ours[-1:]).to(model.device)).float().cpu().numpy()
    apart = np.abs(np.concatenate([ours[:-1], normed]) - theirs).max(axis=1)
    return float(apart.max()), float((apart / np.abs(theirs).max(axis=1)).max())


def _sampled(both: Compared) -> str:
    return f"theirs timed on {len(both.theirs)} of {len(both.ours)} requests, scaled"


def sweep_setting(bench: Bench, sizes: Sizes) -> tuple[Row, Compared]:
    """One setting of a sweep: does the next token, after the push, open a call?"""
    prompts = [bench.everything[row] for row in spread(bench.everything, sizes.states)]
    layer, hook = bench.adapter.layer, hook_of(bench.adapter)
    reading, batches = read_prompts(Engine(bench.model, bench.prefix), prompts, bench.trigger_id, "sweep prefill")

    def ours() -> list:
        return triggers(bench, batches, reading.states, bench.adapter).tolist()

    def theirs(row: int) -> bool:
        return next_token(bench.model, prompts[row], layer, hook) == bench.trigger_id

    both = compare(prompts, sizes.rounds, sizes.sampled_states, ours, theirs)
    equal = all(both.ours[row] == called for row, called in both.theirs.items())
    note = (
        f"layer {layer}, the prompts prefilled before, once for all settings; {_sampled(both)}; "
        f"{sum(both.theirs.values())} of the sample open a call, {sum(reading.called[list(both.theirs)])} unsteered"
    )
    return Row(f"one sweep setting, {len(prompts)} requests", both.ours_s, both.theirs_s, "30 x", equal, note), both


def triggers(bench: Bench, batches: list, states: np.ndarray, adapter: ASAAdapter) -> np.ndarray:
    """Whether the next token opens a call `[N]` after `adapter`'s push on states `[N, layers, H]`, by replay."""
    push, _ = adapter.push(torch.from_numpy(states[:, adapter.layer]).to(bench.model.device))
    return replay_triggers(batches, states, adapter.layer, push.cpu().numpy(), bench.trigger_id)


def generation(bench: Bench, sizes: Sizes) -> tuple[Row, Compared]:
    """Baseline and steered answers to the same requests."""
    prompts = [bench.prompts["test"][row] for row in spread(bench.prompts["test"], sizes.answers)]
    hook = hook_of(bench.adapter)
    both = compare(
        prompts,
        sizes.rounds,
        sizes.sampled_answers,
        lambda: our_answers(bench, Engine(bench.model, bench.prefix), prompts, bench.adapter, sizes.limit),
        lambda row: plain_answers(bench, prompts[row], bench.adapter.layer, hook, sizes.limit),
        lambda pairs: np.array([len(plain) + len(steered) for plain, steered in pairs]),
    )
    equal, said = compare_answers(bench, prompts, both.ours, both.theirs, bench.adapter.layer, hook)
    tokens = sum(len(plain) + len(steered) for plain, steered in both.ours)
    note = (
        f"at most {sizes.limit} new tokens, until the turn ends; {tokens} new tokens; theirs timed on "
        f"{len(both.theirs)} of {len(prompts)} requests, scaled by new tokens; {said}"
    )
    work = f"baseline + ASA generation, {len(prompts)} requests"
    return Row(work, both.ours_s, both.theirs_s, "6 x", equal, note), both


def our_answers(bench: Bench, engine: Engine, prompts, adapter: ASAAdapter, limit: int) -> list:
    """(baseline, steered) answers `[N]`, from the prefill on."""
    reading, batches = read_prompts(engine, prompts, bench.trigger_id, "prefill")
    plain = answer_all(batches, limit, bench.closed, "baseline")
    steered, _ = answer_steered(batches, reading.states, adapter, plain, limit, bench.closed, "ASA")
    return list(zip(plain, steered, strict=True))


def plain_answers(bench: Bench, prompt: list[int], layer: int, hook: PlainHook, limit: int) -> tuple:
    """(baseline, steered) answer to one prompt, each from the start."""
    return tuple(answer(bench.model, prompt, limit, bench.ends, layer, steering) for steering in (None, hook))


def compare_answers(bench: Bench, prompts, ours, theirs: dict, layer: int, hook: PlainHook) -> tuple[bool, str]:
    """Whether all answers are equal token for token, and in words how many are, and how near the others' scores."""
    same, gaps = 0, []
    for row, pair in theirs.items():
        for mine, yours, steering in zip(ours[row], pair, (None, hook), strict=True):
            if mine == yours:
                same += 1
                continue
            step = next(i for i, (a, b) in enumerate(zip([*mine, -1], [*yours, -1], strict=False)) if a != b)
            gaps.append(score_gap(bench.model, prompts[row], step, (mine[step], yours[step]), layer, steering))
    said = f"{same} of {2 * len(theirs)} answers equal token for token"
    if gaps:
        said += f"; where they part, the two tokens' scores are at most {max(gaps):.1e} apart"
    return not gaps, said
