"""The adapter: read the last prompt token, decide, push once; save and load.

The scaler is folded into router and probe, so that a decision is one matrix product on the model's device, in fp32,
one row per request. `steer` puts a hook on one block for the time of a `with` (see `hook`), on the very model that the
adapter was fitted on (see `fingerprint`). It changes no weights.

Decision: z = (h - mean) / std; d = argmax router(z); p = sum over domains c of P(c | z) sigmoid(probe_c(z)), P being
the router's; g = +1 if p >= tau, -1 if p <= 1 - tau, else 0; h' = h + g * alpha * v_d. Source: arXiv 2602.04935 v1/v2,
section 3 (v3 of the paper describes another method), where p is sigmoid(probe_d(z)). Weighing the probes is ours, and
so is looking ahead: where the unsteered model's next token is what the gate wants, nothing is pushed.
"""

import contextlib
import os
import threading
import warnings
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from safetensors.torch import save

from asa.adapter import checks
from asa.adapter.decision import AdapterError, Decision, Trace, does_anyway, gate_of, threshold_of_share
from asa.adapter.files import CHANGED, HubOptions, config_text, read_adapter, written_by
from asa.adapter.folding import FittedReaders, folded, read_scores
from asa.adapter.hook import Steering, generating_model
from asa.adapter.publishing import Published
from asa.models.known_prompts import OTHER_PROMPT, begin_alike
from asa.models.layout import CausalModel, is_compiled
from asa.support.files import write_together

ARRAYS = ("weight", "bias", "vectors")
MEASURED = ("test", "valid")  # what a config says of its own gate
_STEERED: "weakref.WeakSet" = weakref.WeakSet()
_STEERED_LOCK = threading.Lock()


class ASAAdapter(Published):
    """Decides per request and steers one block of a model.

    Args:
        config: `layer`, `alpha`, `dose`, `tau`, `domains`, `model` (a `fingerprint`); where they are known,
            `trigger_id` and `look_ahead`, whether it does so by default; `weighs_probes`, whether all probes have a say
            (an adapter fitted before that has none); and whatever else is worth keeping.
        arrays: `weight` `[2D, H]` (router rows, then probe rows), `bias` `[2D]`, `vectors` `[D, H]` (unit), all fp32.

    Raises:
        AdapterError: A setting is missing or out of range, or shapes and config do not agree.
    """

    def __init__(self, config: dict, arrays: dict[str, torch.Tensor]):
        self.config = config
        self.layer = checks.layer_in(config)
        self.tau = checks.setting_in(config, "tau", "in [0.5, 1)", lambda value: 0.5 <= value < 1)
        self.alpha, self.dose = (
            checks.setting_in(config, name, "a finite number, 0 or more") for name in ("alpha", "dose")
        )
        self.domains = checks.domains_in(config)
        self.look_ahead = checks.look_ahead_in(config)
        self.weighs_probes = checks.flag_in(config, "weighs_probes")
        self.threshold = checks.threshold_in(config)
        checks.refuse_odd_tool_choice(config)
        self.arrays = {name: arrays[name].float() for name in ARRAYS}
        checks.refuse_odd_arrays(self.arrays, len(self.domains), config["model"])
        along = self.alpha * self.arrays["vectors"]
        self._warned = False  # of a prompt that it knows nothing of
        self._pushes = torch.cat([-along, torch.zeros_like(along), along])  # `[3D, H]`, all there are, gate by gate

    @classmethod
    def from_readers(cls, readers: FittedReaders, vectors: np.ndarray, config: dict) -> "ASAAdapter":
        """Fold a layer's scaler, router and probes (`probes.Readers`) and its vectors `[D, H]` into an adapter."""
        weight, bias = folded(readers)
        arrays = {"weight": weight, "bias": bias, "vectors": vectors}
        return cls(config, {name: torch.tensor(value, dtype=torch.float32) for name, value in arrays.items()})

    def decide(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Decide for hidden states `[B, H]` of block `layer`.

        Returns:
            (domain index `[B]`, p_tool `[B]` fp32, gate `[B]` of -1, 0, 1), on the states' device.

        Raises:
            ValueError: A state is not finite.
        """
        rows = torch.tensor(self._decided(hidden), dtype=torch.float32).reshape(-1, 4).to(hidden.device)
        return rows[:, 0].long(), rows[:, 1], rows[:, 2].int()

    def _decided(self, hidden: torch.Tensor) -> list[tuple[int, float, int, float]]:
        """As `decide`, one tuple per row, the router's probability behind; so few that tensors would cost more time."""
        if self.arrays["weight"].device != hidden.device:
            self.arrays = {name: array.to(hidden.device) for name, array in self.arrays.items()}
            self._pushes = self._pushes.to(hidden.device)
        scores = torch.addmm(self.arrays["bias"], hidden.detach().float(), self.arrays["weight"].T).cpu().numpy()
        if not np.isfinite(scores).all():
            raise ValueError(f"hidden states at layer {self.layer} are not finite: load the model in another dtype.")
        return [
            (domain, p_tool, gate_of(p_tool, self.tau, self.threshold), p_domain)
            for domain, p_tool, p_domain in (read_scores(row, self.weighs_probes) for row in scores.tolist())
        ]

    def push(self, hidden: torch.Tensor, opens: torch.Tensor | None = None) -> tuple[torch.Tensor, list[Decision]]:
        """The push g * alpha * v_d `[B, H]` (fp32) for hidden states `[B, H]`, and the decisions behind it.

        Where `opens` `[B]` (bool, whether the unsteered next token opens a call) is given, rows are not pushed whose
        gate wants just that.
        """
        decided = self._decided(hidden)
        seen = [None] * len(decided) if opens is None else opens.tolist()
        rows, decisions = [], []
        for (domain, p_tool, gate, p_domain), opened in zip(decided, seen, strict=True):
            by = 0 if does_anyway(gate, opened) else gate
            rows.append((by + 1) * len(self.domains) + domain)
            given = (self.domains[domain], p_tool, gate, self.layer, self.dose * abs(by), p_domain, opened)
            decisions.append(Decision(*given))
        return torch.embedding(self._pushes, torch.tensor(rows, device=hidden.device)), decisions

    @property
    def edges(self) -> set[float]:
        """The p_tool at which the gate changes."""
        return {self.tau, 1 - self.tau} if self.threshold is None else {self.threshold}

    def tuned(self, tau: float | None = None, dose: float | None = None) -> "ASAAdapter":
        """The same readers and vectors with another gate or dose; what is not given stays, and tau ends a threshold.

        Raises:
            AdapterError: A value is out of range, or there is no dose to go by, since the adapter was fitted to 0.
        """
        config = {name: value for name, value in self.config.items() if tau is None or name != "threshold"}
        tau, dose = self.tau if tau is None else tau, self.dose if dose is None else dose
        if self.dose == 0 != dose:
            raise AdapterError("the adapter pushes by dose 0, which no other dose can be derived from: fit again.")
        alpha = self.alpha * dose / self.dose if self.dose else 0.0
        return ASAAdapter(config | {"tau": tau, "dose": dose, "alpha": alpha}, self.arrays)

    def with_target_fpr(self, fpr: float) -> "ASAAdapter":
        """The same, its gate open for a share `fpr` of the requests that need no tool, and closed for all others.

        One threshold takes tau's place (see `method.calibration`); on requests of another kind the share may differ.

        Raises:
            AdapterError: `fpr` is not between 0 and 1, or the adapter was fitted before there was this.
        """
        config = {name: value for name, value in self.config.items() if name not in MEASURED}
        return ASAAdapter(config | {"threshold": threshold_of_share(self.config, fpr)}, self.arrays)

    def check_model(self, model: CausalModel) -> None:
        """Refuse a model that the adapter was not fitted on.

        Raises:
            AdapterError: Type, width, depth, vocabulary, embeddings or blocks differ, or it has no such layer.
        """
        checks.refuse_other_model(model, self.config["model"], self.layer)

    @contextlib.contextmanager
    def steer(self, model: torch.nn.Module, strict: bool = False, look_ahead: bool | None = None) -> Iterator[Trace]:
        """Steer `model` inside a `with`: once per answer, at the last prompt token.

        With `generate`, an answer is one call. With plain forward calls, an answer begins with the first call and with
        every call that brings no cache; a prompt's beginning that is to be cached is prefilled before the `with`.

        Args:
            model: The model the adapter was fitted on, or what wraps it (PEFT, data parallel). It must not be compiled,
                though single blocks may be.
            strict: Refuse a prompt that does not begin as those that the adapter was fitted on, whose readers know
                nothing of it; else the first one is warned of.
            look_ahead: See first what the unsteered model's likeliest token does, and push only where the gate wants
                other. It costs a token per answer; outside `generate`, or without a cache, a prompt. None: as fitted.

        Yields:
            A `Trace`, filled as answers are given: one decision a row.

        Raises:
            AdapterError: Another model, a compiled one, or one that is being steered already; `generate` ran code that
                it had compiled before, without the push; or the last prompt token is not where it should be: a batch
                is padded on the right, a row holds several requests, a cache holds the whole prompt already, or plain
                calls bring a prompt in chunks; or `strict` and another prompt; or one cannot look ahead.
        """
        inner = generating_model(model)
        if is_compiled(inner, within=model):
            raise AdapterError(
                "a compiled model ignores hooks set later: steer the uncompiled one, or compile its blocks one by one."
            )
        self.check_model(inner)
        trigger_id = self.config.get("trigger_id") if (self.look_ahead if look_ahead is None else look_ahead) else None
        if look_ahead and trigger_id is None:
            raise AdapterError("the adapter does not say which token opens a call: steer with look_ahead=False.")
        trace = Trace()
        with _STEERED_LOCK:
            if inner in _STEERED:
                raise AdapterError("this model is being steered already (another with-block or thread): one at a time.")
            _STEERED.add(inner)
        try:
            known = partial(self._refuse_unknown, strict)
            with Steering(self, inner, trace.decisions, known, trigger_id).attached():
                yield trace
        finally:
            _STEERED.discard(inner)
        if not trace.decisions:
            warnings.warn("nothing was generated inside adapter.steer(), so nothing was steered.", stacklevel=3)

    def _refuse_unknown(self, strict: bool, ids: torch.Tensor, mask: object) -> None:
        """Refuse or warn of prompts `[B, T]` that do not begin as those of the fit."""
        if (self._warned and not strict) or begin_alike(ids, mask, self.config.get("prefix")):
            return
        if strict:
            raise AdapterError(OTHER_PROMPT)
        self._warned = True
        warnings.warn(OTHER_PROMPT, stacklevel=2)

    def save(self, folder: str | Path) -> None:
        """Write `config.json` and `adapter.safetensors`, both or neither; of several processes the first writes.

        Raises:
            OSError: The disk is full or the folder cannot be written.
        """
        folder = os.path.expanduser(folder)
        arrays = save({name: array.cpu().contiguous() for name, array in self.arrays.items()})
        config = config_text(self.config, arrays)
        write_together({
            Path(folder, "adapter.safetensors"): lambda scratch: scratch.write_bytes(arrays),
            Path(folder, "config.json"): lambda scratch: scratch.write_text(config, encoding="utf-8"),
        })  # fmt: skip

    @classmethod
    def from_pretrained(cls, source: str | Path, force: bool = False, **hub: Unpack[HubOptions]) -> "ASAAdapter":
        """Load an adapter from a folder or a hub id, of which `hub` says more; nothing is unpickled.

        Args:
            source: Folder or hub id.
            force: Load it even if its files were changed since they were saved, as by hand.
            hub: See `HubOptions`.

        Raises:
            AdapterError: No adapter there, another format version, or a damaged or changed file.
        """
        path, config, arrays, untouched = read_adapter(source, **hub)
        try:
            adapter = cls(config, arrays)
        except (KeyError, ValueError, TypeError) as error:
            what = f"{error} is missing." if isinstance(error, KeyError) else error
            raise AdapterError(f"{path} holds a damaged adapter{written_by(config)}: {what}") from error
        if not (untouched or force):
            raise AdapterError(CHANGED.format(path.parent, written_by(config)))
        return adapter
