"""Linear layers by oneDNN: the same as PyTorch's up to rounding, of the weights that a layer has now."""

from types import SimpleNamespace

import pytest
import torch

from asa.engine import linears
from asa.engine.forward import PrefixedModel
from asa.engine.kv_cache import fork_cache
from asa.engine.linears import FEW_STATES, STEP, fast_linears, one_dnn_is_faster

CLOSE = {"rtol": 1e-4, "atol": 1e-4}

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


@pytest.fixture(autouse=True)
def _as_where_it_is_faster(monkeypatch):
    monkeypatch.setattr(linears, "one_dnn_is_faster", lambda: True)


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return torch.nn.Linear(48, 40)


@pytest.mark.parametrize("shape", [(1, 1, 48), (FEW_STATES, 48), (3, 7, 48), (0, 48)])
def test_a_layer_gives_the_same(layer, shape):
    states = torch.randn(shape)
    with torch.inference_mode(), fast_linears(layer):
        assert "forward" in vars(layer)  # else this compares a thing with itself
        found = layer(states)
    torch.testing.assert_close(found, layer(states).detach(), **CLOSE)


def test_a_part_of_the_states_and_a_layer_without_bias(layer):
    """As the head is asked: for the last token of every row."""
    head, states = torch.nn.Linear(48, 300, bias=False), torch.randn(12, 6, 48)
    with torch.inference_mode(), fast_linears(head):
        found = head(states[:, -1:])
    torch.testing.assert_close(found, head(states[:, -1:]).detach(), **CLOSE)


def test_weights_that_have_changed_count(layer):
    """In place, as an optimiser does, and by other weights."""
    states = torch.randn(12, 48)

    def check() -> None:
        with torch.inference_mode(), fast_linears(layer):
            found = layer(states)
        torch.testing.assert_close(found, layer(states).detach(), **CLOSE)

    check()
    with torch.no_grad():
        layer.weight.mul_(2)
    check()
    layer.weight = torch.nn.Parameter(torch.randn(40, 48))
    check()


def test_afterwards_a_layer_is_as_it_was(layer):
    """Also behind an error; gradients flow again."""
    with pytest.raises(KeyError), fast_linears(layer):
        raise KeyError
    assert "forward" not in vars(layer)
    layer(torch.randn(2, 48)).sum().backward()
    assert layer.weight.grad is not None


def test_what_is_left_alone():
    """Other dtypes, layers that somebody else has wrapped, and layers or weights of kinds of their own."""

    class Own(torch.nn.Linear):
        pass

    class Kind(torch.Tensor):
        pass

    wrapped = torch.nn.Linear(8, 8)
    wrapped.forward = mine = lambda states: states
    quantised = torch.nn.Linear(8, 8)
    quantised.weight = torch.nn.Parameter(torch.zeros(8, 8).as_subclass(Kind))
    others = torch.nn.ModuleList([torch.nn.Linear(8, 8).bfloat16(), wrapped, Own(8, 8), quantised])
    with fast_linears(others):
        assert [vars(other).get("forward") for other in others] == [None, mine, None, None]
    assert wrapped.forward is mine


def test_nothing_changes_where_it_is_not_faster(layer, monkeypatch):
    monkeypatch.setattr(linears, "one_dnn_is_faster", lambda: False)
    with fast_linears(layer):
        assert "forward" not in vars(layer)


@pytest.fixture
def _asked_anew():
    linears._mkl_is_slow.cache_clear()
    yield
    linears._mkl_is_slow.cache_clear()


@pytest.mark.usefixtures("_asked_anew")
@pytest.mark.parametrize(
    ("capability", "maker", "expected"),
    [("AVX512", "AuthenticAMD", True), ("AVX2", "AuthenticAMD", False), ("AVX512", "GenuineIntel", False)],
)
def test_where_mkl_is_slow_is_known_from_the_processor(capability, maker, expected, monkeypatch):
    """PyTorch says what the processor can do; whose it is, the system does."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(linears.platform, "processor", lambda: "")
    monkeypatch.setattr(linears, "Path", lambda _: SimpleNamespace(is_file=lambda: True, read_text=lambda: maker))
    assert linears._mkl_is_slow() is expected


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("enabled", [False, True])
def test_who_switches_one_dnn_off_does_without(slow, enabled, monkeypatch):
    monkeypatch.setattr(linears, "_mkl_is_slow", lambda: slow)
    monkeypatch.setattr(linears.torch.backends, "mkldnn", SimpleNamespace(enabled=enabled))
    assert one_dnn_is_faster() is (slow and enabled)


def test_autocast_and_other_states_are_left_to_the_layer(layer):
    states = torch.randn(12, 48)
    with torch.inference_mode(), fast_linears(layer), torch.autocast("cpu", torch.bfloat16):
        assert layer(states).dtype == torch.bfloat16
    layer.bfloat16()
    with torch.inference_mode(), fast_linears(layer):
        assert layer(states.bfloat16()).dtype == torch.bfloat16


def test_the_engine_takes_them_for_the_time_of_its_passes(tiny_llama, monkeypatch):
    """Nested passes and errors change nothing."""
    asked = []
    plain = linears._forward
    monkeypatch.setattr(linears, "_forward", lambda *given: asked.append(given[0]) or plain(*given))
    engine = PrefixedModel(tiny_llama, [1, 2, 3])
    head = tiny_llama.get_output_embeddings()
    assert "forward" not in vars(head)
    with pytest.raises(KeyError), engine.forwarding(), engine.forwarding():
        assert "forward" in vars(head)
        engine.forward(torch.tensor([[4]]), 3, fork_cache(engine.start), prefix=engine.prefix_keys)
        raise KeyError
    assert "forward" not in vars(head) and head in asked


def test_few_states_do_without_and_many_come_in_few_sizes(layer, monkeypatch):
    """oneDNN keeps memory for every number of rows that it has seen."""
    seen = []
    plain = torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(
        linears.torch.ops, "mkldnn",
        SimpleNamespace(_linear_pointwise=lambda *given: seen.append(len(given[0])) or plain(*given)),
    )  # fmt: skip
    with torch.inference_mode(), fast_linears(layer):
        layer(torch.randn(FEW_STATES - 1, 48))
        assert not seen
        for rows in range(FEW_STATES, 1025):
            assert layer(torch.zeros(rows, 48)).shape == (rows, 40)
    assert len(set(seen)) <= 24 and min(seen) >= FEW_STATES
    assert all(filled < rows + max(STEP, rows / 2) for rows, filled in enumerate(seen, FEW_STATES))
