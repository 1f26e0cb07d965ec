"""The published quick-start code, run as printed on the files written beside an adapter."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import fit_adapter, last_token
from steered import changed

from asa.method.original_files import write_quickstart_files

# README of the original project, "Use Pre-built Assets (Local)", from the loading lines to the hook's last line
QUICK_START = """
import pickle, json, numpy as np, torch

# Load ASA assets (221KB total)
vecs   = np.load("outputs/asa_assets/steering_vectors.npz")
router = pickle.load(open("outputs/asa_assets/router.pkl", "rb"))
probes = pickle.load(open("outputs/asa_assets/probes.pkl", "rb"))
scaler = pickle.load(open("outputs/asa_assets/scaler.pkl", "rb"))
config = json.load(open("outputs/asa_assets/config.json"))

# Define ASA hook
_injected = False
def asa_hook(module, inp, out):
    global _injected
    if _injected: return out
    _injected = True
    h = out[0] if isinstance(out, tuple) else out
    hl = h[:, -1, :].detach().cpu().float().numpy()
    hs = scaler.transform(hl)
    dom = config["domains"][router.predict(hs)[0]]
    pt = probes[dom].predict_proba(hs)[0, 1] if dom in probes else 0.5
    gate = 1 if pt >= config["tau"] else (-1 if pt <= 1-config["tau"] else 0)
    if gate == 0: return out
    v = vecs[dom]; v = v / (np.linalg.norm(v) + 1e-8)
    vt = torch.tensor(v, dtype=torch.float16).to(h.device)
    hn = h.clone(); hn[:, -1, :] += gate * config["alpha"] * vt
    rest = out[1:] if isinstance(out, tuple) else None
    return (hn,) + rest if rest else hn
"""
USE = """
_injected = False
hook = model.model.layers[config["L_star"]].register_forward_hook(asa_hook)
state, _ = last_token(model, prompt)
hook.remove()
"""


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the printed code leaves its files open
@pytest.mark.parametrize("domains", [("math", "code", "search"), ("math", "file"), ("only",)])
def test_the_published_code_decides_and_pushes_like_the_adapter(tiny_lfm2, prompts, tmp_path, monkeypatch, domains):
    """The same domain, the gate of its probe alone, and g * alpha * v on the last token's state."""
    fitted = fit_adapter(tiny_lfm2, prompts, domains)
    alone = fitted.readers.p_tool(fitted.states.numpy(), fitted.readers.route(fitted.states.numpy()))
    adapter = changed(fitted.adapter, weighs_probes=False, tau=float(np.quantile(np.maximum(alone, 1 - alone), 0.25)))
    folder = tmp_path / "outputs" / "asa_assets"
    adapter.save(folder)
    write_quickstart_files(folder, fitted.readers, fitted.vectors)
    monkeypatch.chdir(tmp_path)
    space = {"model": tiny_lfm2, "last_token": last_token}
    exec(QUICK_START, space)
    delta, decisions = adapter.push(fitted.states)
    assert {decision.gate for decision in decisions} == {-1, 0, 1}
    assert len({decision.domain for decision in decisions}) > 1 or len(domains) == 1
    for prompt, hidden, push, decision in zip(prompts, fitted.states, delta, decisions, strict=True):
        space["prompt"] = prompt
        exec(USE, space)
        scaled = space["scaler"].transform(hidden[None].numpy())
        assert space["config"]["domains"][space["router"].predict(scaled)[0]] == decision.domain
        moved = space["state"][adapter.layer] - hidden
        if decision.gate == 0:
            assert not moved.any()
        else:  # its vectors are rounded to 16 bit
            torch.testing.assert_close(moved, push, atol=1e-3 * adapter.alpha, rtol=0)
            other = (moved - delta).norm(dim=1)
            same = [d.domain == decision.domain and d.gate == decision.gate for d in decisions]
            assert other[same].max() < 0.01 * adapter.alpha < other[[not s for s in same]].min()


def test_the_files_are_plain(tiny_lfm2, prompts, tmp_path):
    """Four files whole and nothing half-written beside them; the vectors load without pickle, unit and by domain."""
    fitted = fit_adapter(tiny_lfm2, prompts, ("math", "file"))
    write_quickstart_files(tmp_path / "new" / "folder", fitted.readers, fitted.vectors)
    names = sorted(path.name for path in Path(tmp_path / "new" / "folder").iterdir())
    assert names == ["probes.pkl", "router.pkl", "scaler.pkl", "steering_vectors.npz"]
    with np.load(tmp_path / "new" / "folder" / "steering_vectors.npz", allow_pickle=False) as vectors:
        assert vectors.files == ["math", "file"]
        assert np.array_equal(np.stack([vectors[name] for name in vectors.files]), fitted.vectors)
    np.testing.assert_allclose(np.linalg.norm(fitted.vectors, axis=1), 1, atol=1e-6)
