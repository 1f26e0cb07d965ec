"""Profiles: which one is chosen and why, and that a profile survives JSON."""

import json

import pytest

from asa.profiles import (
    AUTO,
    EMBEDDED,
    GEMMA3,
    LFM25,
    ORIGINAL_STYLE,
    PROFILES,
    ProfileError,
    Wheel,
    choose_profile,
    profile_from_json,
    profile_to_json,
)


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


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("LiquidAI/LFM2-350M", LFM25),
        ("./my-lfm2.5-tuned", LFM25),
        ("Qwen/Qwen2.5-0.5B-Instruct", EMBEDDED),
        ("models/small", EMBEDDED),
    ],
)
def test_a_hub_id_or_folder_is_prompted_like_its_family_but_has_no_wheel(name, like):
    """Otherwise a missing model would silently be replaced by the embedded one."""
    profile, why = choose_profile(name, True, False)
    assert (profile.name, profile.model_id, profile.wheel) == (name, name, None)
    assert (profile.system, profile.trigger, profile.few_shot) == (like.system, like.trigger, like.few_shot)
    assert like.name in why


def test_an_unknown_name_is_refused_with_the_names_there_are():
    with pytest.raises(ProfileError) as caught:
        choose_profile("lfm3", True, True)
    for word in ("'lfm3'", AUTO, *PROFILES, "owner/name", "folder"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "profile", [EMBEDDED, LFM25, GEMMA3, choose_profile("a/b", True, True)[0]], ids=lambda p: p.name
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
    liquid, _ = choose_profile("LiquidAI/LFM2-350M", True, True)
    original, _ = choose_profile("LiquidAI/LFM2-350M", True, True, ORIGINAL_STYLE)
    assert original.system != liquid.system and all(marker in original.system for marker in original.markers)
    same = vars(original) | {"system": liquid.system, "tools_indent": liquid.tools_indent}
    assert same == vars(liquid)
    with pytest.raises(ProfileError, match=r"'original' is for LFM2 models and embedded has its own: use liquid\."):
        choose_profile("embedded", True, True, ORIGINAL_STYLE)
    with pytest.raises(ProfileError, match=r"unknown prompt style 'qwen': use liquid or original\."):
        choose_profile("lfm2.5", True, True, "qwen")
