"""Checkpoints: reused where the key fits, made again where it does not, and never half a file."""

import json
import warnings

import numpy as np
import pytest

from asa.support.checkpoints import Checkpoints
from asa.support.files import key_of, write_atomic, write_json

RESULT = {
    "states": np.array([[1.5, -0.0, np.inf, np.nan], [1e-45, 3.4e38, 0.1, -7.0]], np.float32),
    "called": np.array([True, False]),
    "ids": np.array([2**40, -1]),
    "settings": [{"layer": 3, "f1": 0.1, "auc": float("inf")}],
    "pair": (1, "é"),
}


class Counter:
    """A stage that counts how often it runs."""

    def __init__(self, result=None):
        self.result, self.runs = RESULT if result is None else result, 0

    def __call__(self):
        self.runs += 1
        return dict(self.result)


def assert_is_result(found):
    """`found` is RESULT, its arrays bit for bit."""
    assert found.keys() == RESULT.keys()
    for name, value in RESULT.items():
        if isinstance(value, np.ndarray):
            assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
            assert found[name].tobytes() == value.tobytes()
    assert found["settings"] == RESULT["settings"]
    assert found["pair"] == [1, "é"]


def test_a_second_run_reads_what_the_first_computed(tmp_path, capsys):
    compute = Counter()
    assert_is_result(Checkpoints(tmp_path).stage("states", "k", compute))
    assert_is_result(Checkpoints(tmp_path).stage("states", "k", compute))
    assert compute.runs == 1
    assert [path.name for path in tmp_path.iterdir()] == ["states.npz"]
    assert "states: reused" in capsys.readouterr().out


def test_the_first_run_gives_the_same_kinds_of_values_as_the_second(tmp_path):
    """Otherwise an interrupted run could fail where a whole one does not."""
    first = Checkpoints(tmp_path).stage("states", "k", Counter())
    second = Checkpoints(tmp_path).stage("states", "k", Counter())
    assert {name: type(value) for name, value in first.items()} == {n: type(v) for n, v in second.items()}


def test_another_key_computes_again_and_replaces_the_file(tmp_path):
    kept = Checkpoints(tmp_path)
    kept.stage("s", "old", lambda: {"a": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a changed key is no damage
        assert kept.stage("s", "new", lambda: {"a": 2}) == {"a": 2}
    assert kept.stage("s", "new", lambda: {"a": 3}) == {"a": 2}
    assert kept.stage("s", "old", lambda: {"a": 4}) == {"a": 4}


def test_stages_do_not_share_a_file(tmp_path):
    kept = Checkpoints(tmp_path)
    kept.stage("s-a", "k", lambda: {"a": 1})
    assert kept.stage("s-b", "k", lambda: {"a": 2}) == {"a": 2}


@pytest.mark.parametrize("kept_share", [0.0, 0.01, 0.5, 0.9, 0.99])
@pytest.mark.shows("A stage's file that was cut off is named, and the stage computed again")
def test_a_truncated_file_is_named_and_computed_again(tmp_path, kept_share):
    compute = Counter()
    Checkpoints(tmp_path).stage("states", "k", compute)
    path = tmp_path / "states.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept_share)])
    with pytest.warns(UserWarning, match=r"states\.npz is damaged"):
        assert_is_result(Checkpoints(tmp_path).stage("states", "k", compute))
    assert compute.runs == 2
    assert_is_result(Checkpoints(tmp_path).stage("states", "k", compute))
    assert compute.runs == 2


@pytest.mark.parametrize("content", ["[]", "no checkpoint", b"\x93NUMPY\x01\x00"])
def test_another_programs_file_is_damage_too(tmp_path, content):
    (tmp_path / "s.npz").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.warns(UserWarning, match="damaged"):
        assert Checkpoints(tmp_path).stage("s", "k", lambda: {"a": 1}) == {"a": 1}


def test_a_plain_array_or_a_foreign_archive_is_damage_too(tmp_path):
    np.savez(tmp_path / "foreign.npz", states=np.zeros(2))
    with (tmp_path / "plain.npz").open("wb") as file:
        np.save(file, np.zeros(2))
    for name in ("foreign", "plain"):
        with pytest.warns(UserWarning, match="damaged"):
            assert Checkpoints(tmp_path).stage(name, "k", lambda: {"a": 1}) == {"a": 1}


@pytest.mark.shows("A stage's file of which any byte was changed gives what it gave, or is computed again")
def test_any_flipped_byte_is_noticed_or_harmless(tmp_path, tried):
    """A damaged file may not crash the run, nor give other arrays; zip checks the arrays' CRC."""
    Checkpoints(tmp_path).stage("s", "k", Counter())
    path = tmp_path / "s.npz"
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        compute = Counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert_is_result(Checkpoints(tmp_path).stage("s", "k", compute))
    tried(len(range(0, len(whole), 7)), "bytes")


def test_an_exception_leaves_the_old_file_and_no_scratch_file(tmp_path):
    kept = Checkpoints(tmp_path)
    kept.stage("s", "old", lambda: {"a": 1})
    before = (tmp_path / "s.npz").read_bytes()

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept.stage("s", "new", interrupted)
    with pytest.raises(TypeError):
        kept.stage("s", "new", lambda: {"a": object()})  # fails while the file is being written
    assert [path.name for path in tmp_path.iterdir()] == ["s.npz"]
    assert (tmp_path / "s.npz").read_bytes() == before


def test_a_failing_write_changes_nothing(tmp_path):
    target = tmp_path / "deep" / "file.txt"

    def half(scratch):
        scratch.write_text("half")
        raise OSError("disk full")

    write_atomic(target, lambda scratch: scratch.write_text("whole"))
    with pytest.raises(OSError, match="disk full"):
        write_atomic(target, half)
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


def test_seconds_are_those_of_the_computation_also_where_it_is_reused(tmp_path, monkeypatch):
    clock = iter([100.0, 103.25, 500.0, 501.0])
    monkeypatch.setattr("asa.support.checkpoints.time.perf_counter", lambda: next(clock))
    first, second = Checkpoints(tmp_path), Checkpoints(tmp_path)
    first.stage("s", "k", lambda: {"a": 1})
    assert "_seconds" not in second.stage("s", "k", lambda: {"a": 1})
    assert first.seconds == second.seconds == {"s": 3.25}


def test_nothing_is_pickled(tmp_path):
    """An array of objects cannot be kept: reading it back would mean unpickling."""
    kept = Checkpoints(tmp_path)
    kept.stage("s", "k", lambda: {"a": np.array(["x", "y"])})
    with np.load(tmp_path / "s.npz", allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)


EXPLODED = []


def explode() -> None:
    EXPLODED.append("!")


class Explosive:
    """Says so when it is unpickled."""

    def __reduce__(self):
        return explode, ()


@pytest.mark.shows("A hostile pickle in a stage's file is not opened")
def test_nothing_is_unpickled(tmp_path):
    """A checkpoint may come from somebody else."""
    parts = {"__key": np.array("k"), "__json": np.array('{"_seconds": 1}')}
    np.savez(tmp_path / "s.npz", **parts, a=np.array([Explosive()], dtype=object))
    with pytest.warns(UserWarning, match="damaged"):
        assert Checkpoints(tmp_path).stage("s", "k", lambda: {"a": 1}) == {"a": 1}
    assert EXPLODED == []


def test_keys_do_not_depend_on_the_process():
    """Python's own hash does; a literal value shows that this one does not."""
    assert (
        key_of("a", 1, {"y": 2, "x": [1.5, None]}) == key_of("a", 1, {"x": [1.5, None], "y": 2}) == "41ef039bd07072ed"
    )
    different = [(), ("a",), ("a", "b"), ("ab",), (["a", "b"],), ("a", 1), ("a", "1"), ({"a": 1},), ({"a": 2},)]
    assert len({key_of(*parts) for parts in different}) == len(different)


def test_json_is_readable_by_everyone(tmp_path):
    """UTF-8, a final newline, and no NaN, which JSON does not have."""
    write_json(tmp_path / "r.json", {"f1": 0.5, "layers": [{"auc": float("nan")}, {"auc": 0.9}], "pair": (1, None)})

    def refuse(name):
        raise AssertionError(name)

    text = (tmp_path / "r.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    found = json.loads(text, parse_constant=refuse)
    assert found == {"f1": 0.5, "layers": [{"auc": None}, {"auc": 0.9}], "pair": [1, None]}
