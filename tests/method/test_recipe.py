"""The recipe: what is fitted is what the adapter decides by."""

import numpy as np
import pytest
import torch

from asa.data.requests import Request
from asa.data.splits import ReadSplit
from asa.method.directions import NECESSITY
from asa.method.recipe import Recipe
from asa.method.tuning import Setting

NAMES, ROWS, WIDTH = ["math", "code", "search"], 120, 16


def test_an_adapter_reads_the_need_as_its_readers_do():
    """Also where the router is in doubt, so that the likeliest domain's probe says another thing."""
    rng = np.random.default_rng(0)
    states = rng.standard_normal((ROWS, 2, WIDTH)).astype(np.float32)
    requests = [Request(f"request {row}", row // 3 % 2, NAMES[row % 3], "") for row in range(ROWS)]
    read = ReadSplit(requests, [[1]] * ROWS, states, np.zeros(ROWS, bool), np.zeros(ROWS, np.float32))
    recipe, setting = Recipe(read, read, NAMES, 0.1, 4.0), Setting(NECESSITY, 1, dose=0.5, beta=0.0, tau=0.6)
    adapter = recipe.adapter(setting, {"model": {"hidden_size": WIDTH}})
    here, readers = states[:, 1], recipe.readers(1)
    _, p_tool, _ = adapter.decide(torch.from_numpy(here))
    np.testing.assert_allclose(p_tool.numpy(), readers.p_tool(here), atol=1e-5)
    assert np.abs(readers.p_tool(here) - readers.p_tool(here, readers.route(here))).max() > 0.1
    assert adapter.alpha == pytest.approx(0.5 * readers.mean_norm)
