"""The adapter: read the last prompt token, decide, push once; save and load.

The scaler is folded into router and probe, so that a decision is one matrix product on the model's device, in fp32,
a row a request. `steer` puts a hook on one block for the time of a `with`; it acts once per answer, at the last
prompt token, and is always removed. It works with left padding, a KV cache, a cache of a prompt's beginning and
chunked prefill. It refuses right padding and compiled models, where it would act on the wrong token or not at all.
It changes no weights.

Decision: z = (h - mean) / std; d = argmax router(z); p = sigmoid(probe_d(z)); g = +1 if p >= tau, -1 if p <= 1 - tau,
else 0; h' = h + g * alpha * v_d. Source: arXiv 2602.04935 v1/v2, section 3 (v3 of the paper describes another method).
"""

import contextlib
import json
import math
import threading
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from asa.blocks import block_output, decoder_layers, input_device, is_compiled
from asa.files import UserError, write_atomic, write_json

FORMAT = 1
ARRAYS = ("weight", "bias", "vectors")
FINGERPRINT_TOLERANCE = 0.05  # the same weights, quantised or in 16 bit, stay within it; another model does not
_STEERED: "weakref.WeakSet" = weakref.WeakSet()
_STEERED_LOCK = threading.Lock()


class AdapterError(UserError):
    """An adapter cannot be loaded or does not fit the model; the message says what was expected and found."""


@dataclass
class Decision:
    """What the adapter decided for one row; not frozen, which would double the time that a decision takes.

    Attributes:
        domain: The routed domain.
        p_tool: Probability that the request needs a tool.
        gate: +1 push toward a call, -1 away, 0 leave alone.
        layer: Index of the steered block.
        dose: Length of the push over the mean length of a state, 0 where the gate is 0.
    """

    domain: str
    p_tool: float
    gate: int
    layer: int
    dose: float


@dataclass
class Trace:
    """What a `steer` block did, in the order it happened."""

    decisions: list[Decision] = field(default_factory=list)


def fingerprint(model) -> dict:
    """Shape of a model and the lengths of a few token embeddings: enough to refuse another model's adapter."""
    config = model.config
    embed = model.get_input_embeddings()  # called, not indexed: accelerate may keep its weights elsewhere
    picked = torch.linspace(0, embed.weight.shape[0] - 1, 16, device=input_device(model)).long()
    lengths = embed(picked).detach().float().norm(dim=1)
    return {
        "model_type": config.model_type,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "vocab_size": config.vocab_size,
        "embedding_norms": [round(length, 5) for length in lengths.tolist()],
    }


class ASAAdapter:
    """Decides per request and steers one block of a model.

    Args:
        config: `layer`, `alpha`, `dose`, `tau`, `domains`, `model` (a `fingerprint`), and whatever else is worth
            keeping.
        arrays: `weight` `[2D, H]` (router rows, then probe rows), `bias` `[2D]`, `vectors` `[D, H]` (unit), all fp32.

    Raises:
        AdapterError: Shapes and config do not agree.
    """

    def __init__(self, config: dict, arrays: dict[str, torch.Tensor]):
        self.config = config
        self.layer, self.tau, self.alpha = int(config["layer"]), float(config["tau"]), float(config["alpha"])
        self.dose, self.domains = float(config["dose"]), list(config["domains"])
        self.arrays = {name: arrays[name].float() for name in ARRAYS}
        count, width = len(self.domains), config["model"]["hidden_size"]
        expected = {"weight": (2 * count, width), "bias": (2 * count,), "vectors": (count, width)}
        for name, shape in expected.items():
            if tuple(self.arrays[name].shape) != shape:
                raise AdapterError(f"adapter array {name} has shape {tuple(self.arrays[name].shape)}, not {shape}.")
        if not 0.5 <= self.tau < 1:
            raise AdapterError(f"tau must be in [0.5, 1), not {self.tau}.")
        along = self.alpha * self.arrays["vectors"]
        self._pushes = torch.cat([-along, torch.zeros_like(along), along])  # `[3D, H]`, all there are, gate by gate

    @classmethod
    def from_readers(cls, readers, vectors, config: dict) -> "ASAAdapter":
        """Fold a layer's scaler, router and probes (`probes.Readers`) and its vectors `[D, H]` into an adapter."""
        router = readers.router
        router_weight, router_bias = router.coef_, router.intercept_
        if len(readers.domains) <= 2:  # scikit-learn keeps one row for two classes: class 1 against class 0
            router_weight = np.vstack([0 * router_weight[0], router_weight[0]])[: len(readers.domains)]
            router_bias = np.array([0.0, router_bias[0]])[: len(readers.domains)]
        probes = [readers.probes[domain] for domain in readers.domains]
        weight = np.vstack([router_weight, *[probe.coef_ for probe in probes]]) / readers.scaler.scale_
        bias = np.concatenate([router_bias, *[probe.intercept_ for probe in probes]]) - weight @ readers.scaler.mean_
        arrays = {"weight": weight, "bias": bias, "vectors": vectors}
        return cls(config, {name: torch.tensor(value, dtype=torch.float32) for name, value in arrays.items()})

    def decide(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Decide for hidden states `[B, H]` of block `layer`.

        Returns:
            (domain index `[B]`, p_tool `[B]` fp32, gate `[B]` of -1, 0, 1), on the states' device.

        Raises:
            ValueError: A state is not finite.
        """
        rows = torch.tensor(self._decided(hidden), dtype=torch.float32).reshape(-1, 3).to(hidden.device)
        return rows[:, 0].long(), rows[:, 1], rows[:, 2].int()

    def _decided(self, hidden: torch.Tensor) -> list[tuple[int, float, int]]:
        """As `decide`, a tuple a row; the numbers are so few that tensor operations would cost several times more."""
        if self.arrays["weight"].device != hidden.device:
            self.arrays = {name: array.to(hidden.device) for name, array in self.arrays.items()}
            self._pushes = self._pushes.to(hidden.device)
        scores = torch.addmm(self.arrays["bias"], hidden.detach().float(), self.arrays["weight"].T).cpu().numpy()
        if not np.isfinite(scores).all():
            raise ValueError(f"hidden states at layer {self.layer} are not finite: load the model in another dtype.")
        decided = []
        domains = scores[:, : len(self.domains)].argmax(1).tolist()
        for domain, row in zip(domains, scores[:, len(self.domains) :].tolist(), strict=True):
            p_tool = _sigmoid(row[domain])
            decided.append((domain, p_tool, 1 if p_tool >= self.tau else -1 if p_tool <= 1 - self.tau else 0))
        return decided

    def push(self, hidden: torch.Tensor) -> tuple[torch.Tensor, list[Decision]]:
        """The push g * alpha * v_d `[B, H]` (fp32) for hidden states `[B, H]`, and the decisions behind it."""
        decided = self._decided(hidden)
        rows = np.array([(gate + 1) * len(self.domains) + domain for domain, _, gate in decided], np.int64)
        delta = torch.embedding(self._pushes, torch.from_numpy(rows).to(hidden.device))
        return delta, [Decision(self.domains[d], p, g, self.layer, self.dose * abs(g)) for d, p, g in decided]

    def check_model(self, model) -> None:
        """Refuse a model that the adapter was not fitted on.

        Raises:
            AdapterError: Type, width, depth, vocabulary or embeddings differ.
        """
        found, expected = fingerprint(model), self.config["model"]
        for name, value in expected.items():
            if name == "embedding_norms":
                near = torch.allclose(
                    torch.tensor(found[name]), torch.tensor(value), rtol=FINGERPRINT_TOLERANCE, atol=1e-3
                )
                if not near:
                    raise AdapterError(
                        "the adapter was fitted on other weights: load the model it names, or fit again."
                    )
            elif found[name] != value:
                raise AdapterError(
                    f"the adapter needs {name} {value} but the model has {found[name]}: load its own model."
                )
        if not 0 <= self.layer < len(decoder_layers(model)):
            raise AdapterError(f"the adapter steers layer {self.layer}, which the model does not have: fit again.")

    @contextlib.contextmanager
    def steer(self, model) -> Iterator[Trace]:
        """Steer `model` inside a `with`: once per answer, at the last prompt token.

        With `generate`, an answer is one call. With plain forward calls, an answer begins with the first call and with
        every call that brings no cache; a prompt's beginning that is to be cached is prefilled before the `with`.

        Args:
            model: The model the adapter was fitted on, uncompiled; single blocks may be compiled.

        Yields:
            A `Trace`, filled as answers are given: one decision a row.

        Raises:
            AdapterError: Another model, a compiled one, or one that is being steered already; `generate` ran code that
                it had compiled before, without the push.
            ValueError: The last prompt token is not where it should be: a batch is padded on the right, a cache holds
                the whole prompt already, or plain calls bring a prompt in chunks.
        """
        if is_compiled(model):
            raise AdapterError(
                "a compiled model ignores hooks set later: steer the uncompiled one, or compile its blocks one by one."
            )
        self.check_model(model)
        trace, steering = Trace(), _Steering(self, model)
        with _STEERED_LOCK:
            if model in _STEERED:
                raise AdapterError("this model is being steered already (another with-block or thread): one at a time.")
            _STEERED.add(model)
        try:
            with steering.attached(trace):
                yield trace
        finally:
            _STEERED.discard(model)
        if not trace.decisions:
            warnings.warn("nothing was generated inside adapter.steer(), so nothing was steered.", stacklevel=3)

    def save(self, folder: str | Path) -> None:
        """Write `config.json` and `adapter.safetensors`, whole or not at all; of several processes the first writes."""
        folder = Path(folder)
        arrays = {name: array.cpu().contiguous() for name, array in self.arrays.items()}
        write_atomic(folder / "adapter.safetensors", lambda scratch: save_file(arrays, scratch))
        write_json(folder / "config.json", {"format": FORMAT} | self.config)

    @classmethod
    def from_pretrained(cls, source: str | Path) -> "ASAAdapter":
        """Load an adapter from a folder or a hub id; nothing is unpickled.

        Raises:
            AdapterError: No adapter there, another format version, or a damaged file.
        """
        folder = Path(source)
        if not folder.is_dir() and str(source).count("/") == 1 and not folder.is_absolute():
            from huggingface_hub import snapshot_download

            try:
                folder = Path(snapshot_download(str(source), allow_patterns=["config.json", "adapter.safetensors"]))
            except Exception as error:
                raise AdapterError(
                    f"{source}: no such folder, and the hub does not give it ({type(error).__name__})."
                ) from error
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            if not isinstance(config, dict) or config.get("format") != FORMAT:
                raise AdapterError(
                    f"{folder}/config.json is not an adapter of format {FORMAT}: fit again with this version."
                )
            return cls(config, load_file(folder / "adapter.safetensors"))
        except AdapterError:
            raise
        except FileNotFoundError as error:
            raise AdapterError(
                f"{folder} holds no adapter: {Path(error.filename or '').name or error} is missing."
            ) from error
        except (ValueError, TypeError, KeyError, SafetensorError) as error:
            raise AdapterError(f"{folder} holds a damaged adapter ({error}): save it again.") from error


class _Steering:
    """The hooks of one `with`: notices where an answer begins and which call holds the last prompt token."""

    def __init__(self, adapter: ASAAdapter, model):
        self.adapter, self.model = adapter, model
        self.prompt_length: int | None = None  # set while generate runs
        self.waiting = True  # nothing has been decided for this answer yet
        self.column: int | None = None  # where this forward call holds the last prompt token, if it does

    @contextlib.contextmanager
    def attached(self, trace: Trace) -> Iterator[None]:
        generate, own = self.model.generate, vars(self.model).get("generate")

        def one_answer(*args, **kwargs):
            ids = kwargs.get("input_ids", kwargs.get("inputs", args[0] if args else None))
            ids = kwargs.get("inputs_embeds") if ids is None else ids
            past = kwargs.get("past_key_values")
            self.waiting = True
            mask = kwargs.get("attention_mask")
            seen = 0 if past is None else int(past.get_seq_length())
            # ids are the whole prompt, or only what follows the cache (then the mask is longer than the ids)
            whole = ids.shape[1] if mask is None or mask.shape[1] == ids.shape[1] else seen + ids.shape[1]
            if seen >= whole:
                raise ValueError(f"the cache holds {seen} tokens, the prompt {whole}: pass a fresh copy of the cache.")
            _refuse_right_padding(mask, whole - 1)
            self.prompt_length = whole
            try:
                answer = generate(*args, **kwargs)
            finally:
                self.prompt_length = None
            if self.waiting:  # chunked prefill into a static cache runs what generate once compiled, without the hooks
                raise AdapterError("generate ran compiled code, unsteered: call it with disable_compile=True.")
            return answer

        block = decoder_layers(self.model)[self.adapter.layer]
        before = self.model.register_forward_pre_hook(self._look, with_kwargs=True)
        after = block.register_forward_hook(lambda _module, _args, output: self._act(output, trace))
        self.model.generate = one_answer
        try:
            yield
        finally:
            del self.model.generate
            if own is not None:
                self.model.generate = own
            before.remove()
            after.remove()

    def _look(self, _module, args, kwargs) -> None:
        """Before a forward call: does it hold the last prompt token?"""
        ids = kwargs.get("input_ids", args[0] if args else None)
        ids = kwargs.get("inputs_embeds") if ids is None else ids
        past = kwargs.get("past_key_values")
        seen = 0 if past is None else past.get_seq_length()
        if self.prompt_length is None:
            self.column = ids.shape[1] - 1 if self.waiting or seen == 0 else None
            self.waiting = self.column is not None
            if self.column is None and ids.shape[1] > 1:
                raise ValueError("a prompt's next chunk: prefill all chunks but the last before adapter.steer().")
        else:  # not simply the last column: assisted decoding puts candidates behind the prompt
            column = self.prompt_length - 1 - int(seen)
            self.column = column if 0 <= column < ids.shape[1] else None
        if self.column is not None:
            _refuse_right_padding(kwargs.get("attention_mask"), seen + self.column)

    def _act(self, output, trace: Trace):
        if self.column is not None:
            hidden = block_output(output)
            delta, decisions = self.adapter.push(hidden[:, self.column])
            with torch.no_grad():
                # the one column, in place: no copy of the whole tensor; in fp32 and rounded once, as the engine does it
                hidden[:, self.column] += delta.to(hidden.device)
            if self.waiting:  # without a cache, generate runs the prompt again for every token: the same push
                trace.decisions += decisions
            self.column, self.waiting = None, False
        return output


def _sigmoid(score: float) -> float:
    """Of one number, without overflow; a library's would cost a second of every import."""
    away = math.exp(-abs(score))
    return (1.0 if score >= 0 else away) / (1.0 + away)


def _refuse_right_padding(mask, last: int) -> None:
    """Refuse a padding mask `[B, T]` that hides column `last` of any row."""
    if isinstance(mask, torch.Tensor) and mask.dim() == 2 and not mask[:, last : last + 1].all():
        raise ValueError("the batch is padded on the right: set tokenizer.padding_side = 'left'.")
