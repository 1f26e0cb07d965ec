"""The rows that compare both sides on the model: states, a sweep setting and answers.

Every function measures one kind of work and checks that both sides say the same. A faster path that differed by more
than rounding would show here as `equal: false`; how much rounding is, truth.py measures on the machine at hand. Answers
may part where the two tokens' scores are tied within it, which is reported.
"""

import numpy as np
import torch
from bench import Bench, Compared, Row, Sizes, compare, spread
from plain import PlainHook, answer, hook_of, last_token, logits, next_token, scores
from truth import NothingInFloat32, allowed_error, doubled, error

from asa.adapter import ASAAdapter
from asa.engine.answering import answer_all, answer_steered
from asa.engine.engine import Engine
from asa.engine.states import read_prompts, read_states
from asa.method.steering import replay_triggers
from asa.models.layout import final_norm


def extraction(bench: Bench, sizes: Sizes) -> tuple[Row, Compared]:
    """Last-token states of all layers."""
    prompts = [bench.everything[row] for row in spread(bench.everything, sizes.states)]

    def ours() -> list:
        return list(read_states(Engine(bench.model, bench.prefix), prompts, bench.trigger_id, "states").states)

    both = compare(
        prompts, sizes.rounds, sizes.sampled_states, ours, lambda row: last_token(bench.model, prompts[row])[0]
    )
    equal, said = compare_states(bench, [(prompts[row], both.ours[row], theirs) for row, theirs in both.theirs.items()])
    work = f"last-token states, all layers, {len(prompts)} requests"
    note = f"the prefix' prefill included; {_sampled(both)}; {said}"
    return Row(work, both.ours_s, both.theirs_s, "10 x", equal, note), both


@torch.no_grad()
def compare_states(bench: Bench, sample: list[tuple[list[int], np.ndarray, np.ndarray]]) -> tuple[bool, str]:
    """Whether our states are no further from float64 than rounding leaves theirs, and in words how far both are.

    A model puts its last state out behind the final norm, so ours goes through it too.

    Args:
        bench: Whose states they are.
        sample: (prompt, our states `[layers, H]`, theirs).
    """
    norm, twin = final_norm(bench.model), doubled(bench.model)
    ours, theirs, true = [], [], []
    for prompt, mine, yours in sample:
        mine = torch.from_numpy(mine)
        last = norm(mine[-1:].to(bench.model.device, bench.model.dtype)).float().cpu()
        ours.append(torch.cat([mine[:-1], last]))
        theirs.append(torch.from_numpy(yours))
        with NothingInFloat32():
            true.append(torch.from_numpy(last_token(twin, prompt)[0]))
    ours, theirs, true = torch.stack(ours), torch.stack(theirs), torch.stack(true)
    worst, allowed = error(ours, true).max().item(), allowed_error((theirs, true))
    said = (
        f"largest error of a state against float64, relative to its length: ours {worst:.1e}, "
        f"theirs {error(theirs, true).max().item():.1e}; equal: at most {allowed:.1e}"
    )
    return worst <= allowed, said


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
    steered, _ = answer_steered(batches, reading, {"asa": adapter}, plain, limit, bench.closed, "ASA")["asa"]
    return list(zip(plain, steered, strict=True))


def plain_answers(bench: Bench, prompt: list[int], layer: int, hook: PlainHook, limit: int) -> tuple:
    """(baseline, steered) answer to one prompt, each from the start."""
    return tuple(answer(bench.model, prompt, limit, bench.ends, layer, steering) for steering in (None, hook))


def compare_answers(bench: Bench, prompts, ours, theirs: dict, layer: int, hook: PlainHook) -> tuple[bool, str]:
    """Whether all answers are equal token for token up to a tie; in words how many are, and how near the others'."""
    same, gaps = 0, []
    for row, pair in theirs.items():
        for mine, yours, steering in zip(ours[row], pair, (None, hook), strict=True):
            if mine == yours:
                same += 1
                continue
            step = next(i for i, (a, b) in enumerate(zip([*mine, -1], [*yours, -1], strict=False)) if a != b)
            gaps.append(score_gap(bench.model, prompts[row], yours[:step], (mine[step], yours[step]), layer, steering))
    said = f"{same} of {2 * len(theirs)} answers equal token for token"
    if gaps:
        gap, allowed = max(gaps, key=lambda pair: pair[0] / pair[1])
        said += f"; where they part, the two tokens' scores are {gap:.1e} apart, where rounding allows {allowed:.1e}"
    return all(gap <= allowed for gap, allowed in gaps), said


def score_gap(
    model, prompt: list[int], answer: list[int], tokens: tuple[int, int], layer: int, hook: PlainHook | None
) -> tuple[float, float]:
    """How far apart the scores of two tokens are behind a prompt and the beginning of its answer.

    Returns:
        (gap, how large rounding may make it).
    """
    twin = doubled(model)
    plain = logits(model, prompt + answer)
    with NothingInFloat32():
        true = logits(twin, prompt + answer)
    said = scores(model, prompt, len(answer), layer, hook)
    allowed = 2 * allowed_error((plain, true)) * float(said.square().mean().sqrt())
    return abs(float(said[tokens[0]] - said[tokens[1]])), allowed
