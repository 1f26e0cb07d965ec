"""The hook: where an answer begins in a model's calls, which of them holds the last prompt token, and the push there.

`Steering` hooks one block and wraps the model's `generate` for the time of a `with`, and is always removed. It acts
once per answer, at the last prompt token, under left padding, a KV cache, a cache of a prompt's beginning and chunked
prefill. Where it looks ahead (see `look_ahead`), rows whose gate wants what the model would do anyway are left alone.
What it cannot see through it refuses: right padding, and calls in which a row is not one request (packed
sequences, paged attention). It does not decide: the adapter does, from the hidden states that it is given.
"""

import contextlib
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, Protocol, TypeVar, cast

import torch
from transformers import GenerationMixin

from asa.adapter.decision import AdapterError
from asa.adapter.look_ahead import look_ahead
from asa.adapter.one_request import ONE_REQUEST, refuse_packing, refuse_right_padding
from asa.models.layout import CausalModel, block_output, cache_name, decoder_layers

BATCHING = ("generate_batch", "init_continuous_batching", "continuous_batching_context_manager")

Output = TypeVar("Output", torch.Tensor, tuple)  # of a decoder block


def generating_model(model: object) -> CausalModel:
    """The model of transformers whose `generate` and `forward` really run: `model` or what it wraps.

    PEFT, data parallel and value-head models pass `generate` on to the model inside.

    Raises:
        AdapterError: There is none inside, or virtual tokens stand in front of its prompts.
    """
    modules = model.modules() if isinstance(model, torch.nn.Module) else ()
    inner = next((module for module in modules if isinstance(module, GenerationMixin)), None)
    if inner is None:
        where = ": pass its .model" if isinstance(getattr(model, "model", None), torch.nn.Module) else ""
        raise AdapterError(
            f"{type(model).__name__} is no model of transformers that generates{where or ', and wraps none'}."
        )
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise AdapterError(
            f"{type(model).__name__} puts virtual tokens before every prompt, so the prompt's last token is not where "
            "the adapter expects it: steer a model without prompt tuning."
        )
    return cast(CausalModel, inner)


class Pushing(Protocol):
    """What steers: the adapter, as far as its hook knows it.

    Attributes:
        layer: Index of the block whose output is pushed.
    """

    layer: int

    def push(self, hidden: torch.Tensor, opens: torch.Tensor | None = None) -> tuple[torch.Tensor, list]:
        """The push `[B, H]` for hidden states `[B, H]`, and a decision for each; `opens` `[B]`: see `look_ahead`."""


class Steering:
    """The hooks of one `with`.

    Args:
        adapter: Its `layer` is hooked, and its `push` decides.
        model: Of `generating_model`.
        decisions: Filled as answers are given: one per row.
        check_prompt: Called with batches of prompts `[B, T]` seen from their beginning on, and the padding mask.
        trigger_id: Token that opens a call, where the unsteered model is to be looked at ahead of a push; else None.
    """

    def __init__(
        self,
        adapter: Pushing,
        model: CausalModel,
        decisions: list,
        check_prompt: Callable[[torch.Tensor, object], None],
        trigger_id: int | None = None,
    ):
        self.adapter, self.model, self.decisions, self.check_prompt = adapter, model, decisions, check_prompt
        self.trigger_id, self.looking = trigger_id, False  # whether a call is one that only looks
        self.opens: torch.Tensor | None = None  # `[B]` bool, of this answer's rows, where it was looked ahead
        self.prompt_length: int | None = None  # set while generate runs
        self.waiting = True  # nothing has been decided for this answer yet
        self.column: int | None = None  # where this forward call holds the last prompt token, if it does
        self.thread = threading.get_ident()
        self.refused: AdapterError | None = None  # a call of another thread, which may keep its errors to itself

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """Hooks and wrapped methods, for the time of a `with`."""
        own = {name: vars(self.model)[name] for name in ("generate", *BATCHING) if name in vars(self.model)}
        generate = self.model.generate
        before = self.model.register_forward_pre_hook(self._before, with_kwargs=True)
        after = decoder_layers(self.model)[self.adapter.layer].register_forward_hook(self._act)
        self.model.generate = lambda *args, **kwargs: self._one_answer(generate, *args, **kwargs)
        for name in BATCHING:
            setattr(self.model, name, _refuse_batching)
        try:
            yield
        finally:
            for name in ("generate", *BATCHING):
                delattr(self.model, name)
            vars(self.model).update(own)
            before.remove()
            after.remove()
        if self.refused is not None:
            raise self.refused

    def _one_answer(self, generate: Callable, *args: Any, **kwargs: Any) -> Any:
        """Run `generate`, which gives one answer per row."""
        ids = _prompt({"input_ids": kwargs.get("inputs", args[0] if args else None)} | kwargs)
        past = kwargs.get(cache_name(kwargs))
        self.waiting = True
        mask = kwargs.get("attention_mask")
        seen = 0 if past is None else int(past.get_seq_length())
        # ids are the whole prompt, or only what follows the cache (then the mask is longer than the ids)
        whole = ids.shape[1] if mask is None or mask.shape[1] == ids.shape[1] else seen + ids.shape[1]
        if seen >= whole:
            raise AdapterError(f"the cache holds {seen} tokens, the prompt {whole}: pass a fresh copy of the cache.")
        refuse_right_padding(mask, whole - 1)
        if whole == ids.shape[1]:
            self.check_prompt(ids, mask)
        self.prompt_length = whole
        try:
            answer = generate(*args, **kwargs)
        finally:
            self.prompt_length = None
        if self.waiting:  # chunked prefill into a static cache runs what generate once compiled, without the hooks
            raise AdapterError("generate ran compiled code, unsteered: call it with disable_compile=True.")
        return answer

    def _before(self, module: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Before a forward call: does it hold the last prompt token? Gives other arguments, where there are to be."""
        if self.looking:
            return None
        given = _by_name(module, args, kwargs)
        past = given.get(cache_name(given))
        try:
            ids = _prompt(given)
            refuse_packing(given, ids.shape[1])
            seen = 0 if past is None else past.get_seq_length()
            self.column = self._column(int(seen), ids.shape[1])
            if self.column is not None:
                refuse_right_padding(given.get("attention_mask"), int(seen) + self.column)
                if self.prompt_length is None and not seen:
                    self.check_prompt(ids, given.get("attention_mask"))
                if self.trigger_id is not None and self.waiting:
                    return (), self._looked_ahead(module, given, ids.shape[1], self.trigger_id)
        except AdapterError as error:
            if threading.get_ident() != self.thread:
                self.refused = error
            raise
        return None

    def _looked_ahead(self, module: torch.nn.Module, given: dict, width: int, trigger_id: int) -> dict:
        """See what the unsteered model says next; the arguments of the call that is left to do."""
        column, self.column, self.looking = self.column, None, True
        try:
            if column != width - 1:
                raise AdapterError(
                    "candidates stand behind the prompt (assisted decoding): steer with look_ahead=False there."
                )
            in_generate = self.prompt_length is not None
            self.opens, given = look_ahead(module, given, width, trigger_id, may_split=in_generate)
        finally:
            self.looking = False
        self.column = _prompt(given).shape[1] - 1
        return given

    def _column(self, seen: int, width: int) -> int | None:
        """Which of a call's `width` tokens, `seen` of them before it, is the last prompt token; None: none."""
        if self.prompt_length is not None:  # not simply the last: assisted decoding puts candidates behind the prompt
            column = self.prompt_length - 1 - seen
            return column if 0 <= column < width else None
        if self.waiting or seen == 0:
            self.waiting = True
            return width - 1
        if width > 1:
            raise AdapterError("a prompt's next chunk: prefill all chunks but the last before adapter.steer().")
        return None

    def _act(self, _module: torch.nn.Module, _args: tuple, output: Output) -> Output:
        """After the block: push the last prompt token."""
        if self.column is not None:
            hidden = block_output(output)
            delta, decisions = self.adapter.push(hidden[:, self.column], self.opens)
            with torch.no_grad():
                # the one column, in place: no copy of the whole tensor; in fp32 and rounded once, as the engine does it
                hidden[:, self.column] += delta.to(hidden.device)
            if self.waiting:  # without a cache, generate runs the prompt again for every token: the same push
                self.decisions += decisions
            self.column, self.waiting = None, False
        return output


def _refuse_batching(*_args: Any, **_kwargs: Any) -> NoReturn:
    raise AdapterError(f"continuous batching runs in pages, where {ONE_REQUEST}")


def _by_name(module: torch.nn.Module, args: tuple, kwargs: dict) -> dict:
    """A call's arguments by name, those given by position too."""
    if not args:
        return kwargs
    return dict(zip(inspect.signature(module.forward).parameters, args, strict=False)) | kwargs


def _prompt(given: dict) -> torch.Tensor:
    """The call's tokens `[B, T]`, or their embeddings `[B, T, H]`."""
    ids = given.get("input_ids")
    ids = given.get("inputs_embeds") if ids is None else ids
    if ids is None:
        raise AdapterError("the model was called without a prompt: give input_ids or inputs_embeds.")
    return ids
