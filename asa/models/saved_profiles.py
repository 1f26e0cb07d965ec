"""Saved profiles: a profile as JSON, and where the model that it names is found again.

A model folder is written relative to the adapter's, so that both can move together.
"""

import os
from dataclasses import MISSING, asdict, fields, replace
from typing import Any

from asa.models.profiles import PROFILES, Profile, ProfileError, Wheel, model_place

LONGEST_ANSWER = 1_000_000  # tokens
WIDEST_INDENT = 16  # spaces


def profile_beside(profile: Profile, folder: str) -> Profile:
    """The profile as an adapter in `folder` keeps it: a model folder is named as seen from there.

    Then the two can move together. A hub id stays, and so does a folder on another drive.
    """
    if not os.path.isdir(profile.model_id):
        return profile
    place = os.path.realpath(profile.model_id)
    try:
        place = os.path.relpath(place, os.path.realpath(folder))
    except ValueError:
        return replace(profile, model_id=place)
    return replace(profile, model_id=place if place.startswith(".") else f"./{place}")  # no hub id begins with a dot


def profile_found(profile: Profile, folder: str, source: str = "", model: str = "") -> Profile:
    """The profile of an adapter with its model where it is now.

    Args:
        profile: As the adapter in `folder` keeps it.
        folder: The adapter's. A model folder is looked for from there, then from the working directory.
        source: Where the model was when the adapter was fitted; looked for last.
        model: A model folder or hub id to take in its place, or "".

    Raises:
        ProfileError: The model folder is at none of these places.
    """
    if model:
        return replace(profile, model_id=model_place(model), revision="main", wheel=None)
    from_adapter = os.path.normpath(os.path.join(os.path.realpath(folder), profile.model_id))
    for place in (from_adapter, profile.model_id, source):
        if os.path.isdir(place):
            return replace(profile, model_id=place)
    if profile.model_id.startswith((".", "/")):
        raise ProfileError(
            f"the model folder {from_adapter}, which the adapter was fitted on, is not there: "
            "give its place with --model."
        )
    return profile


def profile_to_json(profile: Profile) -> dict:
    """A profile as a plain object."""
    return asdict(profile)


def profile_from_json(value: dict) -> Profile:
    """The profile that `profile_to_json` gave, now or before it knew all of today's fields.

    A wheel is taken only if it is one of the package's own, since pip and the conversion read whatever it names.

    Raises:
        ProfileError: A field is unknown, missing or of another kind than it should be.
    """
    if not isinstance(value, dict):
        raise ProfileError(f"the profile must be an object, not {value!r}")
    known = {part.name: part for part in fields(Profile)}
    for name in value.keys() - known.keys():
        raise ProfileError(f"the profile has the unknown field {name!r}")
    for name, part in known.items():
        if name not in value and part.default is MISSING:
            raise ProfileError(f"the profile lacks {name!r}")
        if not _fits(name, value.get(name, part.default)):
            raise ProfileError(f"the profile's {name!r} is {repr(value[name])[:60]}")
    wheel = value.get("wheel")
    try:
        named = _wheel_from_json(wheel) if wheel else None
        known_wheel = named if named in [profile.wheel for profile in PROFILES.values()] else None
        return Profile(**(value | {"wheel": known_wheel}))
    except (AttributeError, TypeError) as error:
        raise ProfileError(f"the profile's 'wheel' is {wheel!r}") from error


def _fits(name: str, value: Any) -> bool:
    """Whether a field's value is of its kind and in its range."""
    if name in ("name", "model_id", "trigger", "call_end", "revision"):
        return isinstance(value, str) and value.strip() != ""
    if name in ("max_new_tokens", "words_limit"):
        return type(value) is int and 0 < value <= LONGEST_ANSWER
    if name == "tools_indent":
        return value is None or (type(value) is int and 0 <= value <= WIDEST_INDENT)
    if name in ("tools_as_json", "few_shot"):
        return isinstance(value, bool)
    if name in ("chat_template", "turn_end"):
        return value is None or (isinstance(value, str) and value != "")
    return name == "wheel" or isinstance(value, str)


def _wheel_from_json(value: dict) -> Wheel:
    return Wheel(**(value | {"rest": tuple(map(_wheel_from_json, value.get("rest", ())))}))
