"""Facts: for what model, prompt and tools an adapter is, as its config.json says it."""

from typing import Any

from asa.models.fingerprint import fingerprint
from asa.models.known_prompts import prefix_mark
from asa.models.layout import CausalModel
from asa.models.profiles import Profile
from asa.models.prompts import Prompter
from asa.models.saved_profiles import profile_beside, profile_to_json
from asa.tools.definitions import tools_to_json


def prompt_facts(prompter: Prompter) -> dict[str, Any]:
    """Of the prompts and the tools in them."""
    return {
        "prompt_hash": prompter.key(), "prefix": prefix_mark(prompter.prefix()), "tools": tools_to_json(prompter.tools),
    }  # fmt: skip


def profile_facts(profile: Profile, folder: str) -> dict[str, Any]:
    """Of the profile, for an adapter that is going to stand in `folder`."""
    kept = profile_beside(profile, folder)
    return {"model_id": kept.model_id, "profile": profile_to_json(kept)}


def facts_of(model: CausalModel, source: str, prompter: Prompter, folder: str) -> dict[str, Any]:
    """Of an adapter of `model`, loaded from `source`, that is going to stand in `folder`."""
    return prompt_facts(prompter) | profile_facts(prompter.profile, folder) | {
        "model_source": source, "model": fingerprint(model), "chat_template_hash": prompter.template_hash,
        "trigger_id": prompter.trigger_id,
    }  # fmt: skip
