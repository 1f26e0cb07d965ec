"""The plain approach, which the benchmarks measure ours against: one request at a time, everything from the start.

It is written from a description of the project this one improves on: a full forward pass over the whole prompt for
every request's states and for every setting of a sweep, one `generate` call per answer, and a forward hook that takes
the hidden state to the CPU, asks scikit-learn, makes a new tensor and clones the block's whole output. On purpose it
shares no prefix, batches nothing, keeps no cache between calls and scores all positions, as a plain call of the model
does. It shares no code with the engine and the adapter; that both say the same is what the benchmarks check.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler


class PlainHook:
    """A forward hook that decides and pushes once, on a batch of one; set `fired` to False before every answer.

    Args:
        scaler: Standardises a state `[1, H]`.
        router: State -> domain number.
        probes: Domain number -> probe.
        vectors: `[D, H]`, not necessarily of length 1.
        alpha: Length of the push.
        tau: Confidence the gate asks for.
        weighs_probes: Whether all probes have a say, or the likeliest domain's alone.

    Attributes:
        fired: Whether it has acted already.
        decision: (domain number, probability, gate) of the last answer.
    """

    def __init__(self, scaler, router, probes, vectors: np.ndarray, alpha: float, tau: float, weighs_probes: bool):
        self.scaler, self.router, self.probes = scaler, router, probes
        self.vectors, self.alpha, self.tau, self.weighs_probes = vectors, alpha, tau, weighs_probes
        self.fired, self.decision = False, None

    def __call__(self, _module, _args, output):
        """Act on a block's output `[1, T, H]`, a tensor or a tuple that starts with it."""
        if self.fired:
            return output
        self.fired = True
        hidden = output[0] if isinstance(output, tuple) else output
        scaled = self.scaler.transform(hidden[:, -1, :].detach().cpu().float().numpy())
        shares = softmax(self.router.decision_function(scaled).ravel())
        domain = int(shares.argmax())
        each = [float(probe.predict_proba(scaled)[0, 1]) for probe in self.probes]
        p_tool = float(shares @ each) if self.weighs_probes else each[domain]
        gate = 1 if p_tool >= self.tau else -1 if p_tool <= 1 - self.tau else 0
        self.decision = (domain, p_tool, gate)
        if gate == 0:
            return output
        vector = self.vectors[domain] / (np.linalg.norm(self.vectors[domain]) + 1e-8)
        changed = hidden.clone()
        changed[:, -1, :] += gate * self.alpha * torch.tensor(vector, dtype=hidden.dtype).to(hidden.device)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed


def hook_of(adapter) -> PlainHook:
    """A hook that decides as `adapter` does: its folded weights in scikit-learn objects, behind an identity scaler."""
    weight, bias = adapter.arrays["weight"].cpu().numpy(), adapter.arrays["bias"].cpu().numpy()
    count, width = len(adapter.domains), weight.shape[1]
    scaler = StandardScaler()
    scaler.mean_, scaler.scale_, scaler.n_features_in_ = np.zeros(width), np.ones(width), width
    router = _linear(weight[:count], bias[:count])
    probes = [_linear(weight[count + d][None], bias[count + d][None]) for d in range(count)]
    vectors, gate = adapter.arrays["vectors"].cpu().numpy(), (adapter.alpha, adapter.tau, adapter.weighs_probes)
    return PlainHook(scaler, router, probes, vectors, *gate)


def _linear(weight: np.ndarray, bias: np.ndarray) -> LogisticRegression:
    model = LogisticRegression()
    model.classes_, model.coef_, model.intercept_ = np.arange(max(2, len(weight))), weight, bias
    model.n_features_in_ = weight.shape[1]
    return model


@contextmanager
def attached(model, layer: int, hook) -> Iterator[None]:
    """`hook` on block `layer` for the time of a `with`; None: no hook."""
    if hook is None:
        yield
        return
    handle = model.get_decoder().layers[layer].register_forward_hook(hook)
    hook.fired = False
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def last_token(model, prompt: list[int]) -> tuple[np.ndarray, int]:
    """States `[layers, H]` at the last prompt token and the most likely next token, by one full forward pass.

    The states stand behind every block; the last one is behind the final norm too, as the model puts it out.
    """
    out = model(input_ids=torch.tensor([prompt], device=model.device), output_hidden_states=True)
    states = torch.stack([hidden[0, -1].float() for hidden in out.hidden_states[1:]]).cpu().numpy()
    return states, int(out.logits[0, -1].argmax())


@torch.no_grad()
def next_token(model, prompt: list[int], layer: int, hook: PlainHook | None) -> int:
    """The most likely next token under a hook; one sweep setting is this, for every request."""
    with attached(model, layer, hook):
        return int(model(input_ids=torch.tensor([prompt], device=model.device)).logits[0, -1].argmax())


def answer(model, prompt: list[int], limit: int, ends: list[int], layer: int, hook: PlainHook | None) -> list[int]:
    """A greedy answer of at most `limit` tokens, up to and with an end of turn out of `ends`."""
    out = _generate(model, prompt, layer, hook, max_new_tokens=limit, eos_token_id=ends)
    return out.sequences[0, len(prompt) :].tolist()


def scores(model, prompt: list[int], step: int, layer: int, hook: PlainHook | None) -> torch.Tensor:
    """The logits `[vocabulary]` that the token at `step` of the greedy answer is chosen by."""
    out = _generate(model, prompt, layer, hook, max_new_tokens=step + 1, eos_token_id=None, output_logits=True)
    return out.logits[step][0].float().cpu()


@torch.no_grad()
def logits(model, ids: list[int]) -> torch.Tensor:
    """The logits of every token `[T, vocabulary]`, by one full forward pass."""
    return model(input_ids=torch.tensor([ids], device=model.device)).logits[0].cpu()


@torch.no_grad()
def _generate(model, prompt: list[int], layer: int, hook: PlainHook | None, **options):
    ids = torch.tensor([prompt], device=model.device)
    with attached(model, layer, hook):
        return model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, return_dict_in_generate=True,
            **options,
        )  # fmt: skip
