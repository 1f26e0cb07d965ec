"""The whole run, counted: every stage that `pipeline.py` runs on the card with 1,600 requests and profile `lfm2.5`.

Each goes through the engine's own calls, in fp16 on the meta device, with every layer, prompt and setting that the
pipeline has. Every answer runs to its limit and every gate is open, which is the most that can happen. No seconds here.
"""

from dataclasses import dataclass, replace
from functools import partial

import torch
from counting import Counts, OpCounter
from shape import Work, draw_prompts, make_model
from torch.nn.functional import pad

from asa.engine.batch import Batch
from asa.engine.kv_cache import join_caches
from asa.method.directions import DIRECTIONS
from asa.method.layers import LayerReading, layers_to_steer
from asa.method.tuning import BETAS, DOSES
from asa.models.profiles import LFM25

TRIGGER_ROOM = 4  # tokens of an answer on VALID: the trigger's one and three more
ABLATIONS = 12  # variants that `ablations.run_ablations` replays on TEST


@dataclass(frozen=True)
class Stage:
    """A piece of the whole run.

    Attributes:
        name: What runs.
        times: How often.
        counts: Of one time.
        peak: Most bytes held meanwhile, weights included.
    """

    name: str
    times: int
    counts: Counts
    peak: int


def count_run(config, split: int, spare: int) -> list[Stage]:
    """Every stage at its full size.

    Args:
        config: The model's shape.
        split: Prompts of CAL, of TRAIN and of VALID; TEST has twice as many.
        spare: Prompts for the readers alone.
    """
    model, counter = make_model(config, torch.float16, "meta"), OpCounter()
    counter.hold([*model.parameters(), *model.buffers()])
    return [*_fit_and_tune(model, split, spare, counter), *_test(model, 2 * split, counter)]


def _stage(counter: OpCounter, name: str, times: int, run) -> Stage:
    print(f"counting: {name}", flush=True)
    return Stage(name, times, *counter.count(run))


def _fit_and_tune(model, split: int, spare: int, counter: OpCounter) -> list[Stage]:
    """The prefix, the splits that are read, the sweep of settings on VALID, and VALID's short answers."""
    work, more = (Work(model, draw_prompts(count, model.config.vocab_size)) for count in (split, spare))
    more.prefix()
    readings = [LayerReading(layer, 0.9, 0.5, layer < 2) for layer in range(model.config.num_hidden_layers)]
    settings = len(DIRECTIONS) * len(BETAS) * len(DOSES)
    return [
        _stage(counter, "prefix", 1, work.prefix),
        _stage(counter, f"states of {split} prompts: CAL, TRAIN, VALID, VALID again for tuning", 4, work.extract),
        _stage(counter, f"states of {spare} prompts for the readers alone", 1, more.extract),
        *[
            _stage(
                counter, f"one setting on {split} VALID prompts at layer {layer}", settings, partial(work.replay, layer)
            )
            for layer in layers_to_steer(readings)
        ],
        _answers(counter, f"{TRIGGER_ROOM} tokens for {split} rows: VALID baseline, ASA", 2, work, TRIGGER_ROOM),
    ]


def _test(model, count: int, counter: OpCounter) -> list[Stage]:
    """TEST: states, answers of three runs, ablations at the lowest layer that may be steered."""
    work, limit = Work(model, draw_prompts(count, model.config.vocab_size)), LFM25.max_new_tokens
    work.prefix()
    return [
        _stage(counter, f"states of {count} prompts: TEST", 1, work.extract),
        _answers(counter, f"{limit} tokens for {count} rows: TEST baseline, ASA, paper", 3, work, limit),
        _stage(counter, f"one ablation on {count} TEST prompts at layer 2", ABLATIONS, partial(work.replay, 2)),
    ]


def _answers(counter: OpCounter, name: str, times: int, work: Work, limit: int) -> Stage:
    """`limit` tokens a row: the first, and for each other one the token halfway, as cost grows evenly with length."""
    first = _stage(counter, name, times, partial(work.decode, work.batches, limit, 1))
    halfway = [_longer(batch, limit // 2) for batch in work.batches]
    one, two = (counter.count(partial(work.decode, halfway, limit, steps))[0] for steps in (1, 2))
    return replace(first, counts=first.counts + (two - one) * (limit - 1))


def _longer(batch: Batch, tokens: int) -> Batch:
    """A batch as it is when every row has `tokens` more."""
    cache = join_caches([batch.cache], batch.own_mask.shape[1] + tokens)
    return replace(batch, cache=cache, own_mask=pad(batch.own_mask, (0, tokens), value=True))
