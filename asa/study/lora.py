"""Fine-tuning: the LoRA baseline, trained to call or to answer in words, on the prompts that steering gets.

Steering changes no weights; the usual way to change a habit does. This is that way at its usual strength: rank 16 on
all linear maps of all blocks, since leaving the MLP out is known to cost accuracy and would save little here. The loss
stands on the answers' tokens only. All prompts share their system text and examples, so a step runs those tokens once
and all rows attend to them, with gradients through both: the loss and its gradient are those of whole prompts, one by
one, at a fraction of the tokens. Rows are filled up on the right, which no token sees.

The weights underneath are never written to, not even by merging; at the end the model is what it was, to the bit. The
adapters are fp32 whatever the model is. What is to be said is given by the caller, and nothing is judged here.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from peft import LoraConfig
from peft.functional import cast_adapter_dtype
from peft.tuners.lora import LoraModel
from torch.nn.utils.rnn import pad_sequence

from asa.data.examples import plain_arguments
from asa.data.scores import confusion
from asa.data.splits import ReadSplit, Split
from asa.engine.answering import answer_all, answer_chosen
from asa.engine.engine import Engine
from asa.engine.kv_cache import fork_cache, growing_cache
from asa.engine.states import read_states
from asa.models.answers import AnswerRules
from asa.models.fitting import shared_prefix
from asa.models.layout import CausalModel, input_device, unembed
from asa.models.prompts import Prompter
from asa.study.calling import freely_written, grammar_alone
from asa.support.processes import progress
from asa.tools.definitions import Example, Tool

RANK = 16
ALPHA = 32  # an update is multiplied by ALPHA / RANK
LEARNING_RATE = 1e-3  # at the first step, falling to 0 in a straight line; 2e-4 did worse on SmolLM2's VALID
STEP_ROWS = 16  # requests in a step
PART_ROWS = 4  # requests side by side in it, of similar length: less filling
IGNORE_INDEX = -100  # in a row of labels: no loss here
GRADIENT_SCALE = 1024.0  # of an fp16 model; halved where a gradient overflows, and that step is not taken


@dataclass(frozen=True)
class LoraRun:
    """What a training took.

    Attributes:
        seconds: Wall-clock time, without the loading of anything.
        parameters: How many were trained.
        bytes: Their size.
        steps: Optimiser steps.
        first_loss: Mean loss per token (nats) of the first step's requests, before any change.
        last_loss: The same of the last step's requests.
    """

    seconds: float
    parameters: int
    bytes: int
    steps: int
    first_loss: float
    last_loss: float


def answer_by_lora(
    engine: Engine,
    prompter: Prompter,
    rules: AnswerRules,
    fit: ReadSplit,
    valid: ReadSplit,
    test: Split,
    seed: int,
    grammar: bool,
) -> dict:
    """TEST's answers of LoRA trained on `fit`; VALID says only how it does.

    Returns:
        `LoraRun`'s fields, `rate`, `valid_f1`, `valid_fpr`, `left_out`, `answers`, and with `grammar` also
        `under_grammar`: the same with calls that may name any tool, written under plain schemas by the trained model.
    """
    batches = list(engine.batches(fit.prompts, "LoRA's requests"))
    in_words = answer_chosen(
        batches, fit.labels == 0, rules.limit, rules.ended, "answers in words", avoid=rules.trigger_id
    )
    of_domain = {tool.domain: tool for tool in reversed(prompter.tools.values())}  # of several the first
    targets = {
        row: call_target(request.text, of_domain[request.domain], prompter) if request.label else in_words[row]
        for row, request in enumerate(fit.requests)
        if request.label or not rules.calls(in_words[row])  # only the first token was kept from opening a call
    }
    taught = [fit.prompts[row] for row in targets]
    with train_lora(engine.model, taught, list(targets.values()), seed, LEARNING_RATE) as run:
        trained = Engine(engine.model, engine.prefix_ids)
        called = read_states(trained, valid.prompts, rules.trigger_id, "VALID, LoRA").called
        scores = confusion(called, valid.labels)
        said = answer_all(list(trained.batches(test.prompts, "TEST, LoRA")), rules.limit, rules.ended, "TEST, LoRA")
        held = {}
        if grammar:
            held["under_grammar"] = freely_written(said, test, grammar_alone(engine.model, prompter, rules))
    return vars(run) | held | {
        "rate": LEARNING_RATE, "valid_f1": scores["f1"], "valid_fpr": scores["fpr"],
        "left_out": len(fit) - len(taught), "answers": said,
    }  # fmt: skip


def call_target(request: str, tool: Tool, prompter: Prompter) -> list[int]:
    """Token ids of a plain call of `tool` for a request that needs it, written as in the prompt's examples.

    The request is the first text argument; what ends a turn stands behind the call.
    """
    said = prompter.reaction(tool, Example(request, plain_arguments(tool.parameters, request)))
    end = prompter.profile.turn_end or prompter.tokenizer.eos_token
    return prompter.tokenizer(said + end, add_special_tokens=False)["input_ids"]


@contextlib.contextmanager
def train_lora(
    model: CausalModel,
    prompts: list[list[int]],
    targets: list[list[int]],
    seed: int,
    learning_rate: float,
    epochs: int = 1,
) -> Iterator[LoraRun]:
    """Train LoRA into `model`; it is on inside the `with`, and gone behind it.

    The model stays the object it was, so an engine can be built on it inside the `with`: one built before has
    the prefix of the unchanged model. Nothing is dropped out, and the same seed gives the same run on the same machine.

    Args:
        model: A causal language model of transformers, in evaluation mode.
        prompts: Token ids, N rows that begin alike.
        targets: Token ids of what is to be said to each, at least one.
        seed: For the adapters' first weights and the order of the steps.
        learning_rate: At the first step.
        epochs: How often every request is seen.

    Yields:
        What the training took.

    Raises:
        ValueError: There are not as many targets as prompts, one is empty, or a loss is not finite.
    """
    if len(prompts) != len(targets) or not all(targets):
        raise ValueError(f"{len(prompts)} prompts need as many targets of a token or more, not {len(targets)}.")
    trainable = [(weight, weight.requires_grad) for weight in model.parameters()]
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear")  # all but the unembedding
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        lora = LoraModel(model, config, "default")
    try:
        cast_adapter_dtype(model, "default")  # to fp32: in fp16, what AdamW adds to its denominator is 0
        yield _train(model, prompts, targets, seed, epochs, learning_rate)
    finally:
        lora.unload()
        for weight, before in trainable:
            weight.requires_grad_(before)


def _train(
    model: CausalModel, prompts: list[list[int]], targets: list[list[int]], seed: int, epochs: int, learning_rate: float
) -> LoraRun:
    started = time.perf_counter()
    prefix = shared_prefix(prompts)
    own = [prompt[len(prefix) :] for prompt in prompts]
    groups = _groups(len(prompts), seed, epochs)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=len(groups))
    half = model.dtype == torch.float16  # whose smallest gradients would become 0
    scaler = torch.amp.GradScaler(input_device(model).type, GRADIENT_SCALE, enabled=half)
    losses = []
    for rows in progress(groups, desc="LoRA", unit="step"):
        loss = answer_loss(model, prefix, [own[row] for row in rows], [targets[row] for row in rows])
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise ValueError(
                f"LoRA's loss is {losses[-1]} at step {len(losses)}: load the model in another dtype (fp32, or bf16 "
                "where the GPU has it), or lower the learning rate."
            )
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
        schedule.step()
        optimiser.zero_grad()
    seconds, count = time.perf_counter() - started, sum(weight.numel() for weight in weights)
    size = sum(weight.nbytes for weight in weights)
    return LoraRun(seconds, count, size, len(losses), losses[0], losses[-1])


def _groups(count: int, seed: int, epochs: int) -> list[list[int]]:
    """The rows of every step, in an order drawn anew every epoch."""
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(count, generator=generator).tolist() for _ in range(epochs)]
    return [order[first : first + STEP_ROWS] for order in orders for first in range(0, count, STEP_ROWS)]


def answer_loss(model: CausalModel, prefix: list[int], own: list[list[int]], targets: list[list[int]]) -> torch.Tensor:
    """Mean loss per token (nats) of `targets` behind prompts that are `prefix` and the rows of `own`; with gradient."""
    decoder, cache, device = model.get_decoder(), growing_cache(model.config), input_device(model)
    decoder(input_ids=torch.tensor([prefix], device=device), past_key_values=cache, use_cache=True)
    order = sorted(range(len(own)), key=lambda row: len(own[row]) + len(targets[row]))
    losses = []
    for first in range(0, len(order), PART_ROWS):
        part = [(own[row], targets[row]) for row in order[first : first + PART_ROWS]]
        inputs = [torch.tensor(row + target[:-1]) for row, target in part]
        wanted = [torch.tensor([IGNORE_INDEX] * (len(row) - 1) + target) for row, target in part]
        ids = pad_sequence(inputs, batch_first=True).to(device)
        copies = fork_cache(cache, torch.zeros(len(part), dtype=torch.long))  # of the one prefix, one row per request
        hidden = decoder(input_ids=ids, past_key_values=copies, use_cache=True).last_hidden_state
        labels = pad_sequence(wanted, batch_first=True, padding_value=IGNORE_INDEX)
        labels = labels.to(hidden.device)  # a device map may end elsewhere than it begins
        spoken = labels != IGNORE_INDEX  # only these are unembedded: the vocabulary is the largest matrix
        logits = unembed(model, hidden[spoken]).float()
        losses.append(torch.nn.functional.cross_entropy(logits, labels[spoken].to(logits.device), reduction="sum"))
    return torch.stack(losses).sum() / sum(map(len, targets))
