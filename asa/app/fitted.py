"""Fitted: what an adapter was fitted with, and the prompts of that time. No model is loaded here."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from asa.adapter import ASAAdapter
from asa.adapter.decision import AdapterError
from asa.adapter.files import written_by
from asa.app import ASSETS
from asa.models.profiles import Profile, ProfileError
from asa.models.prompts import Prompter, PromptError
from asa.models.saved_profiles import profile_from_json
from asa.tools.definitions import Tool, tools_from_json
from asa.tools.schemas import shown_schema

PLAIN_SYSTEM = "You are a helpful assistant."


def adapter_here(place: str, option: str = "--assets") -> str:
    """`place`, a folder or hub id; where none was named, the folder that a run leaves, if it is here.

    Raises:
        AdapterError: It is not; `option` names an adapter.
    """
    if place == ASSETS and not Path(ASSETS).exists():
        raise AdapterError(f"there is no {ASSETS} here: fit an adapter (asa fit), or name one, {option} FOLDER_OR_ID.")
    return place


def fitted_with(adapter: ASAAdapter, path: str) -> tuple[Profile, dict[str, Tool], str]:
    """Profile, tools and prompt hash that an adapter was fitted with; `path` names its config in errors.

    Raises:
        AdapterError: One is missing or cannot be read, perhaps since another version wrote it.
        ToolsError: A tool cannot be used.
    """
    config = adapter.config
    for name in ("prompt_hash", "model_source"):
        if not isinstance(config.get(name, ""), str):
            raise AdapterError(f"{path}{written_by(config)}: {name} is {config[name]!r}: fit again with this version.")
    try:
        return profile_from_json(config["profile"]), tools_from_json(config["tools"], path), config["prompt_hash"]
    except KeyError as error:
        raise AdapterError(f"{path}{written_by(config)}: {error} is missing: fit again with this version.") from error
    except ProfileError as error:
        raise AdapterError(f"{path}{written_by(config)}: {error}: fit again with this version.") from error


def fitted_prompter(
    tokenizer: PreTrainedTokenizerBase, profile: Profile, tools: dict[str, Tool], expected: str
) -> Prompter:
    """The prompts that an adapter was fitted with, which have the hash `expected`.

    Raises:
        PromptError: Tokenizer or chat template are others.
    """
    prompter = Prompter(tokenizer, profile, tools)
    if (found := prompter.key()) != expected:
        raise PromptError(
            f"{profile.model_id}: expected the prompt that the adapter was fitted with ({expected}), found another one "
            f"({found}): load the tokenizer and chat template of that time, or fit again."
        )
    return prompter


def plain_prompter(prompter: Prompter) -> Prompter:
    """Plain prompts without tools, in which a tool's result is answered."""
    profile = replace(prompter.profile, system=PLAIN_SYSTEM, few_shot=False)
    return Prompter(prompter.tokenizer, profile, {})


def shown_alike(one: Mapping[str, Tool], other: Mapping[str, Tool]) -> bool:
    """Whether a prompt shows two sets of tools alike: names, descriptions and schemas, in any order."""
    shown = [{name: shown_schema(tool.schema()) for name, tool in tools.items()} for tools in (one, other)]
    return shown[0] == shown[1]
