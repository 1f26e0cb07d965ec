"""Determinism: one seed, one machine, one result; and what another arithmetic may change."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
NANO = ROOT / "tests" / "nano"
FILES = ("asa_assets/adapter.safetensors", "asa_assets/config.json")
OTHER = {"ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "1"}  # no vector instructions, one thread
READ, SCORED = 1e-3, 0.05  # an AUC only rounds; a request at the edge of a decision may fall to the other side


def run(out: Path, **environment: str) -> dict:
    """The nano pipeline's results, without the seconds."""
    given = ["--profile", NANO / "lfm2-nano", "--requests", NANO / "requests.jsonl", "--out", out]
    command = [sys.executable, "-W", "ignore", "pipeline.py", *map(str, given)]
    subprocess.run(command, cwd=ROOT, env=os.environ | environment, check=True, capture_output=True)
    found = json.loads((out / "results.json").read_text())
    return {name: value for name, value in found.items() if name not in ("seconds", "stage_seconds")}


@pytest.mark.shows(
    "The same seed gives the same bytes of adapter and results; without vector instructions, on one thread, it reads "
    "and scores the same, up to rounding"
)
def test_the_same_seed(tmp_path):
    """Rounding may move a request that lies at the edge of a decision: scores are held more loosely than AUCs."""
    first, again, other = run(tmp_path / "first"), run(tmp_path / "again"), run(tmp_path / "other", **OTHER)
    assert first == again
    for name in FILES:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    for here, there in zip(first["layers"], other["layers"], strict=True):
        assert there["auc"] == pytest.approx(here["auc"], abs=READ)
    for name, scores in first["test"].items():
        for measure in ("f1", "fpr", "recall"):
            assert other["test"][name][measure] == pytest.approx(scores[measure], abs=SCORED)
