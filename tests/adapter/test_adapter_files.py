"""An adapter's files: saved and loaded without changing a bit, and refused by what is wrong with them."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from conftest import fit_adapter
from safetensors.torch import load_file, save_file
from steered import decides_by, simple

from asa import AdapterError, ASAAdapter
from asa.adapter.files import checksum
from asa.models.fingerprint import fingerprint
from asa.support.files import VERSION


def test_the_home_folder_is_meant_by_a_tilde(adapter, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    adapter.save("~/adapter")
    assert (tmp_path / "adapter" / "config.json").is_file()
    assert ASAAdapter.from_pretrained("~/adapter").layer == adapter.layer


def test_saving_and_loading_changes_no_bit(adapter, fitted, tmp_path):
    """Arrays, settings and decisions; a second saving writes the same bytes; nothing else lies in the folder.

    A probability may differ in its last bit: where an array begins in memory changes the order of a product's sums.
    """
    adapter.save(tmp_path / "a" / "new")
    loaded = ASAAdapter.from_pretrained(tmp_path / "a" / "new")
    loaded.save(tmp_path / "b")
    assert loaded.config == {"format": 1} | adapter.config | {"asa_version": VERSION}
    for name in ("layer", "tau", "alpha", "dose", "domains"):
        assert getattr(loaded, name) == getattr(adapter, name)
    assert loaded.arrays.keys() == adapter.arrays.keys()
    assert all(torch.equal(loaded.arrays[name], adapter.arrays[name]) for name in adapter.arrays)
    assert all(array.dtype == torch.float32 for array in loaded.arrays.values())
    delta, decisions = adapter.push(fitted.states)
    again, repeated = ASAAdapter.from_pretrained(str(tmp_path / "b")).push(fitted.states)
    assert torch.equal(delta, again)
    for one, other in zip(decisions, repeated, strict=True):
        near = {name: pytest.approx(getattr(one, name), rel=1e-6) for name in ("p_tool", "p_domain")}
        assert other == replace(one, **near)
    files = sorted(path.name for path in (tmp_path / "b").iterdir())
    assert files == ["adapter.safetensors", "config.json"]
    for name in files:
        assert (tmp_path / "a" / "new" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_files_are_small(tmp_path):
    """At LFM2.5's width with four domains: at most 221 KB, what the original's assets take."""
    domains = ["math", "code", "search", "translation"]
    config = {"layer": 12, "alpha": 1.0, "dose": 0.5, "tau": 0.6, "domains": domains, "model": {"hidden_size": 2048}}
    arrays = {"weight": torch.randn(8, 2048), "bias": torch.randn(8), "vectors": torch.randn(4, 2048)}
    ASAAdapter(config, arrays).save(tmp_path)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert 4 * 12 * 2048 < size <= 221_000


@pytest.fixture
def saved(tmp_path) -> Path:
    """A good adapter's folder."""
    simple([0.9, 0.1], weighs_probes=True).save(tmp_path / "good")
    ASAAdapter.from_pretrained(tmp_path / "good")
    return tmp_path / "good"


def test_a_missing_adapter_is_refused(saved, tmp_path):
    """No folder, an empty one, and one with a file missing, by name."""
    with pytest.raises(AdapterError, match=r"holds no adapter: config\.json is missing"):
        ASAAdapter.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AdapterError, match=r"holds no adapter: config\.json is missing"):
        ASAAdapter.from_pretrained(tmp_path / "empty")
    (saved / "adapter.safetensors").unlink()
    with pytest.raises(AdapterError, match=r"holds no adapter: .*adapter\.safetensors.* is missing"):
        ASAAdapter.from_pretrained(saved)


@pytest.mark.shows("An adapter of which any byte was changed is refused, or decides as before")
def test_any_flipped_byte_is_refused_or_changes_nothing(saved, tried):
    """Of the whole config, and of the header and the first numbers of the arrays; never anything but a reason."""
    before = ASAAdapter.from_pretrained(saved)
    for name in ("config.json", "adapter.safetensors"):
        path = saved / name
        whole = path.read_bytes()
        count = len(whole) if name == "config.json" else 8 + int.from_bytes(whole[:8], "little") + 16
        for place in range(count):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
            try:
                found = ASAAdapter.from_pretrained(saved)
            except AdapterError as error:
                assert str(saved) in str(error) or "fit again" in str(error)
                continue
            assert decides_by(found) == decides_by(before)
        path.write_bytes(whole)
        tried(count, f"bytes of {name}")


def test_what_was_changed_by_hand_is_loaded_if_that_is_wanted(saved):
    """And is whole again once it is saved; an adapter of an earlier version, without a checksum, is loaded as it is."""
    path = saved / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"tau": 0.75}))
    with pytest.raises(AdapterError, match=r"good holds an adapter that was changed since it was saved .* force=True"):
        ASAAdapter.from_pretrained(saved)
    changed = ASAAdapter.from_pretrained(saved, force=True)
    changed.save(saved)
    assert ASAAdapter.from_pretrained(saved).tau == 0.75
    known = json.loads(path.read_text()) | {"calibration": {"unneeded": [0.1, 0.9]}}
    path.write_text(json.dumps(known))
    with pytest.raises(AdapterError, match="changed since"):
        ASAAdapter.from_pretrained(saved)
    config.pop("sha256")
    path.write_text(json.dumps(config))
    assert ASAAdapter.from_pretrained(saved).tau == config["tau"]


def test_checksums_of_earlier_versions_are_right(saved):
    """What they did not know of is no part of them; a setting that was missing was one."""
    config, arrays = {"layer": 1, "tau": 0.5}, b"arrays"
    text = json.dumps(
        dict.fromkeys(("alpha", "domains", "dose", "layer", "model", "prefix", "tau")) | config, sort_keys=True
    )
    earlier = hashlib.sha256(f"{hashlib.sha256(arrays).hexdigest()} {text}".encode()).hexdigest()
    assert checksum(config, arrays) == earlier != checksum(config | {"threshold": 0.3}, arrays)


def test_a_tool_choice_is_covered_and_must_be_one(saved):
    """Also where it was added by hand; an adapter that was saved before it was covered is loaded as it is."""
    path = saved / "config.json"
    plain = json.loads(path.read_text())
    path.write_text(json.dumps(plain | {"tool_choice": {"choice": "routed", "sure": 0.9}}))
    assert ASAAdapter.from_pretrained(saved).config["tool_choice"]["sure"] == 0.9  # as earlier versions wrote it
    ASAAdapter.from_pretrained(saved).save(saved)
    whole = json.loads(path.read_text())
    for choice in ({"choice": "routed", "sure": 0.1}, {}, None):
        changed = whole | {"tool_choice": choice}
        path.write_text(json.dumps({name: value for name, value in changed.items() if value is not None}))
        with pytest.raises(AdapterError, match="changed since"):
            ASAAdapter.from_pretrained(saved)
    for choice in ("routed", {"sure": 2}, {"sure": "a"}):
        path.write_text(json.dumps(whole | {"tool_choice": choice}))
        with pytest.raises(AdapterError, match=r"(tool_choice|sure) must be"):
            ASAAdapter.from_pretrained(saved)


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped header", "text"])
@pytest.mark.shows("An adapter whose arrays were cut off, emptied or replaced is refused in a sentence")
def test_a_damaged_file_of_arrays_is_refused(saved, damage):
    """Whatever the transfer did to it."""
    path = saved / "adapter.safetensors"
    whole = path.read_bytes()
    path.write_bytes({
        "cut": whole[:-10], "empty": b"", "flipped header": bytes([whole[0] ^ 0xFF]) + whole[1:], "text": b"<html>" * 9,
    }[damage])  # fmt: skip
    with pytest.raises(AdapterError, match="damaged adapter"):
        ASAAdapter.from_pretrained(saved)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}", b'{"format": 1}', b'{"format": 1, "layer": []}'])
def test_a_damaged_config_is_refused(saved, content):
    """Cut, of another encoding, or without what an adapter needs."""
    (saved / "config.json").write_bytes(content)
    with pytest.raises(AdapterError, match="damaged adapter"):
        ASAAdapter.from_pretrained(saved)


@pytest.mark.parametrize("name", ["layer", "alpha", "dose", "tau", "domains", "model"])
def test_a_config_without_a_setting_is_refused(saved, name):
    """When it is loaded, not when it is used."""
    config = json.loads((saved / "config.json").read_text())
    del config[name]
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(AdapterError, match=name):
        ASAAdapter.from_pretrained(saved)


@pytest.mark.parametrize("content", ["[]", "{}", '{"format": 2}', '{"format": "1"}', "1"])
def test_another_format_is_refused(saved, content):
    """An adapter of a later version, or a config that is none, such as the original's."""
    (saved / "config.json").write_text(content)
    with pytest.raises(AdapterError, match="not an adapter of format 1"):
        ASAAdapter.from_pretrained(saved)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("weight", (4, 31)), ("weight", (3, 32)), ("bias", (2,)), ("vectors", (1, 32)), ("vectors", (2, 31))],
)
def test_wrong_shapes_are_refused(saved, name, shape):
    """By the array's name and both shapes."""
    path = saved / "adapter.safetensors"
    arrays = {key: array.clone() for key, array in load_file(path).items()}
    right = tuple(arrays[name].shape)
    save_file(arrays | {name: torch.zeros(shape)}, path)
    with pytest.raises(AdapterError) as refusal:
        ASAAdapter.from_pretrained(saved)
    assert name in str(refusal.value) and str(shape) in str(refusal.value) and str(right) in str(refusal.value)


def test_a_missing_array_is_refused(saved):
    path = saved / "adapter.safetensors"
    save_file({key: array.clone() for key, array in load_file(path).items() if key != "vectors"}, path)
    with pytest.raises(AdapterError, match=r"damaged adapter.*: 'vectors' is missing"):
        ASAAdapter.from_pretrained(saved)


@pytest.mark.parametrize("tau", [0.49, 1.0, -1.0, float("nan")])
def test_a_tau_that_is_no_confidence_is_refused(tau):
    """Below 0.5 the two pushes overlap; at 1 nothing is ever pushed."""
    with pytest.raises(AdapterError, match="tau must be in"):
        simple([0.5], tau=tau)


def test_a_hub_id(saved, monkeypatch):
    """`owner/name` that is no folder is asked from the hub, for the two files only; a failure is one sentence."""
    asked = []

    def snapshot(repo, **options):
        asked.append((repo, sorted(options["allow_patterns"])))
        if repo == "someone/else":
            raise OSError("offline")
        return str(saved)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert ASAAdapter.from_pretrained("owner/name").domains == ["a", "b"]
    with pytest.raises(AdapterError, match=r"^someone/else: no such folder, and the hub does .* \(OSError\)\.$"):
        ASAAdapter.from_pretrained("someone/else")
    files = ["adapter.safetensors", "config.json"]
    assert asked == [("owner/name", files), ("someone/else", files)]
    with pytest.raises(AdapterError, match=r"config\.json is missing"):
        ASAAdapter.from_pretrained("no-owner")
    assert len(asked) == 2


@pytest.mark.shows("A hostile pickle beside an adapter is not opened")
def test_nothing_is_unpickled(saved):
    """A pickle in the folder is never opened."""
    (saved / "router.pkl").write_bytes(b"cos\nabort\n(tR.")
    ASAAdapter.from_pretrained(saved)


def test_a_fingerprint_is_plain_json(tiny_model):
    """It survives the trip through a file."""
    found = fingerprint(tiny_model)
    assert json.loads(json.dumps(found)) == found
    assert len(found["embedding_norms"]) == 16
    assert len(set(found["embedding_norms"])) > 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layer": 999}, "layer 999 is none of the model's 4"),
        ({"model": None}, "model is None, not an object"),
        ({"num_hidden_layers": None}, "model's num_hidden_layers is None"),
        ({"vocab_size": -1}, "model's vocab_size is -1"),
        ({"embedding_norms": "x"}, "model's embedding_norms are no list of lengths"),
        ({"embedding_norms": [float("nan")]}, "model's embedding_norms are no list of lengths"),
        ({"blocks": ["AAAA"]}, "model's blocks are not one for each layer"),
        ({"blocks": [3] * 5}, "model's blocks are no base64"),
        ({"blocks": ["AAAA"] * 5}, "model's blocks are cut off"),
    ],
)
def test_a_damaged_fingerprint_is_blamed_on_the_file(tiny_llama, prompts, tmp_path, change, said):
    """When it is loaded, by the file's name."""
    adapter = fit_adapter(tiny_llama, prompts).adapter
    inside = {key: value for key, value in change.items() if key not in ("layer", "model")}
    outside = {key: value for key, value in change.items() if key in ("layer", "model")}
    adapter.config = adapter.config | {"model": adapter.config["model"] | inside} | outside
    adapter.save(tmp_path)
    path = tmp_path / "config.json"
    if "embedding_norms" in inside and inside["embedding_norms"] != "x":  # saving made null of NaN
        path.write_text(path.read_text().replace("null", "NaN"))
    with pytest.raises(AdapterError, match=f"^{path} holds a damaged adapter: {said}"):
        ASAAdapter.from_pretrained(tmp_path)
