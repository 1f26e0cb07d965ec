"""Profiles: which one is chosen and why, and that a profile survives JSON."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from asa.models.profiles import (
    AUTO,
    EMBEDDED,
    GEMMA3,
    LFM25,
    ORIGINAL_STYLE,
    PROFILES,
    Profile,
    ProfileError,
    Wheel,
    choose_profile,
)
from asa.models.saved_profiles import profile_beside, profile_found, profile_from_json, profile_to_json


@pytest.mark.parametrize(
    ("hub", "gpu", "expected", "reason"),
    [
        (True, True, LFM25, "a GPU and the hub are there"),
        (False, True, EMBEDDED, "no hub here"),
        (True, False, EMBEDDED, "no GPU here"),
        (False, False, EMBEDDED, "no GPU and no hub here"),
    ],
)
def test_auto_takes_the_product_only_where_it_can_run(hub, gpu, expected, reason):
    profile, why = choose_profile(AUTO, hub, gpu)
    assert profile is expected
    assert why.startswith(reason)


@pytest.mark.parametrize("name", ["embedded", "lfm2.5", "gemma3-270m"])
def test_a_built_in_name_is_taken_whatever_the_machine(name):
    for hub in (False, True):
        for gpu in (False, True):
            assert choose_profile(name, hub, gpu)[0] is PROFILES[name]


@pytest.fixture
def files(monkeypatch):
    """What the hub has of owner/name: file -> text."""
    texts: dict[str, str] = {}

    def download(place, name, revision, local_files_only):
        if local_files_only or name not in texts:
            raise LocalEntryNotFoundError(f"no {name}")
        path = Path(texts["folder"], name)
        path.write_text(texts[name], encoding="utf-8")
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return texts


@pytest.mark.parametrize(
    ("texts", "like"),
    [
        ({"tokenizer_config.json": '{"extra": ["<|tool_call_start|>"]}'}, LFM25),
        ({"tokenizer_config.json": "{}", "tokenizer.json": '{"content": "<|tool_call_start|>"}'}, LFM25),
        ({"tokenizer_config.json": "{}", "chat_template.jinja": "{{ '<|tool_call_start|>' }}"}, LFM25),
        ({"tokenizer_config.json": "{}", "tokenizer.json": '{"content": "<tool_call>"}'}, EMBEDDED),
    ],
)
def test_what_the_tokenizer_knows_says_how_a_model_is_asked(files, tmp_path, texts, like):
    """Whatever its name is, on the hub or in a folder; without the hub, the name is all there is."""
    for name, other in (("owner/assistant", EMBEDDED), ("owner/like-lfm2", LFM25)):
        files.clear()
        files |= texts | {"folder": str(tmp_path)}
        profile, why = choose_profile(name, True, False)
        assert profile.trigger == like.trigger and "its tokenizer" in why
        assert choose_profile(name, False, False)[0].trigger == other.trigger
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert choose_profile(str(tmp_path), False, False)[0].trigger == like.trigger


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("LiquidAI/LFM2-350M", LFM25),
        ("./my-lfm2.5-tuned", LFM25),
        ("Qwen/Qwen2.5-0.5B-Instruct", EMBEDDED),
        ("models/small", EMBEDDED),
    ],
)
def test_a_hub_id_or_folder_is_prompted_like_its_family_but_has_no_wheel(files, name, like):
    """Otherwise a missing model would silently be replaced by the embedded one."""
    profile, why = choose_profile(name, True, False)
    assert (profile.name, profile.model_id, profile.wheel) == (name, name, None)
    assert (profile.system, profile.trigger, profile.few_shot) == (like.system, like.trigger, like.few_shot)
    assert like.name in why


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("nano", "nano"),
        ("nano/", "nano"),
        ("./nano", "./nano"),
        ("./nano//", "./nano"),
        ("~/nano", "{here}/nano"),
        ("~/nano/", "{here}/nano"),
        (".", "."),
        ("owner/name/", "owner/name"),
        ("/", "/"),
    ],
)
def test_a_folder_is_taken_however_it_is_written(tmp_path, monkeypatch, name, place):
    (tmp_path / "nano").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    profile, _ = choose_profile(name, False, False)
    assert (profile.name, profile.model_id) == (place.format(here=tmp_path),) * 2


def test_a_built_in_name_wins_over_a_folder(tmp_path, monkeypatch):
    (tmp_path / "embedded").mkdir()
    monkeypatch.chdir(tmp_path)
    assert choose_profile("embedded", False, False)[0] is EMBEDDED


def test_an_unknown_name_is_refused_with_the_names_there_are():
    with pytest.raises(ProfileError) as caught:
        choose_profile("lfm3", True, True)
    for word in ("'lfm3'", AUTO, *PROFILES, "owner/name", "folder"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "profile", [EMBEDDED, LFM25, GEMMA3, choose_profile("a/b", False, True)[0]], ids=lambda p: p.name
)
def test_json_gives_the_same_profile_back(profile):
    again = profile_from_json(json.loads(json.dumps(profile_to_json(profile))))
    assert again == profile
    assert again.wheel is None or isinstance(again.wheel, Wheel)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))
def test_a_built_in_profile_is_complete(profile):
    assert PROFILES[profile.name] is profile
    assert profile.system.count("{tools}") == 1
    assert profile.markers == (profile.trigger, profile.call_end)
    assert len(set(profile.markers)) == 2 and all(profile.markers)


@pytest.mark.parametrize("missing", [("rest",), ("rest", "chat_template", "turn_end")])
def test_a_profile_saved_before_a_field_was_known_is_read(missing):
    """An adapter's config outlives the code that wrote it."""
    saved = profile_to_json(EMBEDDED)
    saved = {name: value for name, value in saved.items() if name not in missing}
    saved["wheel"] = {name: value for name, value in saved["wheel"].items() if name not in missing}
    assert saved["wheel"].keys() == {"requirement", "sha256", "member"}
    assert profile_from_json(saved) == EMBEDDED


@pytest.mark.shows("An adapter cannot name a package of its own to be fetched and read")
def test_a_wheel_that_is_not_the_packages_own_is_not_taken():
    """Whoever writes an adapter writes its profile, and pip would run what builds a source package."""
    saved = profile_to_json(EMBEDDED)
    for name, value in (
        ("requirement", "https://somewhere.example/x.tar.gz"), ("sha256", "../../elsewhere"), ("member", "other.gguf"),
        ("rest", [profile_to_json(GEMMA3)["wheel"]["rest"][0]]),
    ):  # fmt: skip
        assert profile_from_json(saved | {"wheel": saved["wheel"] | {name: value}}) == replace(EMBEDDED, wheel=None)


@pytest.mark.parametrize("profile", [EMBEDDED, GEMMA3], ids=lambda p: p.name)
def test_the_embedded_prompt_shows_the_markers_that_are_looked_for(profile):
    assert all(marker in profile.system for marker in profile.markers)


def test_the_wheels_are_pinned():
    wheels = [EMBEDDED.wheel, GEMMA3.wheel, *GEMMA3.wheel.rest]
    assert len({wheel.sha256 for wheel in wheels}) == len({wheel.requirement for wheel in wheels}) == 5
    for wheel in wheels:
        assert "==" in wheel.requirement
        assert len(wheel.sha256) == 64 and set(wheel.sha256) <= set("0123456789abcdef")


def test_the_original_style_is_for_lfm2_models_only():
    """It changes the wording and nothing else; there is no third style."""
    liquid, _ = choose_profile("LiquidAI/LFM2-350M", False, True)
    original, _ = choose_profile("LiquidAI/LFM2-350M", False, True, ORIGINAL_STYLE)
    assert original.system != liquid.system and all(marker in original.system for marker in original.markers)
    same = vars(original) | {"system": liquid.system, "tools_indent": liquid.tools_indent}
    assert same == vars(liquid)
    with pytest.raises(ProfileError, match=r"'original' is for LFM2 models and embedded has its own: use liquid\."):
        choose_profile("embedded", True, True, ORIGINAL_STYLE)
    with pytest.raises(ProfileError, match=r"unknown prompt style 'qwen': use liquid or original\."):
        choose_profile("lfm2.5", True, True, "qwen")


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """A folder with a model and an adapter's folder beside it, and the working directory elsewhere."""
    for name in ("pair/models/nano", "pair/out/asa_assets", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "pair"


def kept(model: Path | str, folder: Path) -> Profile:
    """What an adapter in `folder` keeps of a profile with that model."""
    return profile_beside(choose_profile(str(model), False, False)[0], str(folder))


@pytest.mark.parametrize(
    "written", ["{pair}/models/nano", "{pair}/models/nano/", "../pair/models/nano", "~/models/nano"]
)
def test_a_model_folder_and_its_adapter_move_together(pair, monkeypatch, written):
    monkeypatch.setenv("HOME", str(pair))
    profile = kept(written.format(pair=pair), pair / "out" / "asa_assets")
    assert profile.model_id == "../../models/nano"
    moved = pair.rename(pair.parent / "moved")
    for assets in (moved / "out" / "asa_assets", "../moved/out/asa_assets/"):
        assert profile_found(profile, str(assets)).model_id == str(moved / "models" / "nano")


@pytest.mark.parametrize(("model", "place"), [("out/asa_assets/nano", "./nano"), ("out/asa_assets/a/b", "./a/b")])
def test_a_model_inside_the_adapters_folder_is_no_hub_id(pair, model, place):
    (pair / model).mkdir(parents=True)
    profile = kept(pair / model, pair / "out" / "asa_assets")
    assert profile.model_id == place
    assert profile_found(profile, str(pair / "out" / "asa_assets")).model_id == str(pair / model)


def test_a_link_to_the_adapters_folder_leads_to_the_same_model(pair):
    """Two steps up from a link are two steps up from where it points."""
    link = pair.parent / "link"
    link.symlink_to(pair / "out")
    profile = kept(pair / "models" / "nano", link / "asa_assets")
    assert profile.model_id == "../../models/nano"
    assert profile_found(profile, str(link / "asa_assets")).model_id == str(pair / "models" / "nano")


def test_an_adapter_that_moved_alone_finds_the_model_where_it_was(pair):
    model = pair / "models" / "nano"
    profile = kept(model, pair / "out" / "asa_assets")
    alone = pair.parent / "asa_assets"
    shutil.move(pair / "out" / "asa_assets", alone)
    assert profile_found(profile, str(alone), source=str(model)).model_id == str(model)


@pytest.mark.parametrize("source", ["", "PyPI something==1.0"])
def test_a_model_folder_that_is_gone_is_named(pair, source):
    profile = kept(pair / "models" / "nano", pair / "out" / "asa_assets")
    (pair / "models").rename(pair / "gone")
    for lost in (profile, replace(profile, model_id=str(pair / "models" / "nano"))):
        with pytest.raises(ProfileError) as caught:
            profile_found(lost, str(pair / "out" / "asa_assets"), source)
        assert str(caught.value) == (
            f"the model folder {pair}/models/nano, which the adapter was fitted on, is not there: "
            "give its place with --model."
        )


def test_a_path_from_the_working_directory_is_read_as_before(pair, monkeypatch):
    """That is how folders were kept before they were named as seen from the adapter."""
    profile = replace(LFM25, model_id="models/nano", wheel=None)
    monkeypatch.chdir(pair)
    assert profile_found(profile, "out/asa_assets").model_id == "models/nano"


@pytest.mark.parametrize("profile", [EMBEDDED, LFM25, GEMMA3], ids=lambda profile: profile.name)
def test_a_hub_id_is_kept_and_found_as_it_is(pair, profile):
    assert profile_beside(profile, str(pair / "out" / "asa_assets")) is profile
    assert profile_found(profile, str(pair / "out" / "asa_assets"), f"PyPI {profile.name}") is profile


@pytest.mark.parametrize(("given", "place"), [("~/nano/", "{home}/nano"), ("owner/name", "owner/name"), ("./x", "./x")])
def test_a_given_model_is_taken_in_place_of_the_adapters(pair, monkeypatch, given, place):
    """And nothing else in its place: no wheel of the other one, no revision."""
    monkeypatch.setenv("HOME", str(pair))
    saved = replace(EMBEDDED, revision="v2")
    found = profile_found(saved, "out", model=given)
    assert found == replace(saved, model_id=place.format(home=pair), revision="main", wheel=None)


def test_a_folder_on_another_drive_keeps_its_whole_path(pair, monkeypatch):
    def apart(*_paths):
        raise ValueError("path is on mount 'C:', start on mount 'D:'")

    monkeypatch.setattr(os.path, "relpath", apart)
    model = pair / "models" / "nano"
    assert kept(model, pair / "out" / "asa_assets").model_id == str(model)
