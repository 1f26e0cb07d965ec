"""Templates: what a chat template prints of its own, which texts are control tokens, and the system text.

A template that prints the date prints `PROMPT_DATE`, so that a prompt is the same on every day; one that can ask for a
thought before the answer does not.
"""

import json
import re
from datetime import datetime
from typing import TYPE_CHECKING

from asa.models.profiles import Profile
from asa.tools.definitions import Tool, signature
from asa.tools.schemas import shown_schema

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT_DATE = datetime(2024, 7, 26, 12)  # the day that Llama 3's template falls back to


def control_texts(tokenizer: "PreTrainedTokenizerBase", template: str, profile: Profile) -> list[str]:
    """The added tokens, as text, that say more than their letters.

    These are the special ones, those of the others that the chat template or the profile writes (or whose counterpart,
    `</x>` to `<x>`, they write), and the tags of a thinking block. Blanks and plain words say nothing more.
    """
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    special |= set(tokenizer.all_special_tokens)
    written = "".join((template, *profile.markers, profile.turn_end or "", "<think>")).replace("/", "")
    for token in tokenizer.get_added_vocab():
        if token.replace("/", "") in written and re.search(r"\w", token) and re.search(r"[^\w\s]", token):
            special.add(token)
    return sorted(token for token in special if token.strip())


def broken_up(control: re.Match) -> str:
    """A control token's text with a space behind its first character; where none breaks it, without that character."""
    text = control[0]
    return f"{text[0]} {text[1:]}" if text[1:2].strip() else text[1:]


def dated_template(template: str, date: datetime) -> str:
    """`template` with `strftime_now` giving `date`; one that does not ask for the date stays as it is.

    A macro, because transformers hands no function to a template. What its replacements do not know stays as written.
    """
    if "strftime_now" not in template:
        return template
    values = {f"%{letter}": date.strftime(f"%{letter}") for letter in "aAbBcdDefFGHIjmMpRSTuUVwWxXyYzZ"}
    values |= {f"%-{letter}": values[f"%{letter}"].lstrip("0") or "0" for letter in "dHIjmMSy"}
    values = {"%%": "\0"} | values | {"\0": "%"}
    replacements = "".join(f"|replace({json.dumps(old)},{json.dumps(new)})" for old, new in values.items())
    return f"{{%- macro strftime_now(format) %}}{{{{ format{replacements} }}}}{{%- endmacro %}}\n{template}"


def settled_template(template: str, date: datetime = PROMPT_DATE) -> str:
    """`template` with what it asks for settled: the date, and whether the model thinks before it answers.

    It does not, where that can be said, as with Qwen 3's and SmolLM 3's: the need is read, and the trigger looked for,
    where the answer begins.
    """
    thinks = re.search(r"\benable_thinking\b", template)
    return ("{%- set enable_thinking = false %}\n" if thinks else "") + dated_template(template, date)


def system_text(profile: Profile, tools: dict[str, Tool]) -> str:
    """The system text with the tool list written in."""
    if profile.tools_as_json:
        schemas = [shown_schema(tool.schema()) for tool in tools.values()]
        listed = json.dumps(schemas, ensure_ascii=False, indent=profile.tools_indent)
    else:
        listed = "\n".join(f"{signature(tool)}: {tool.description}" for tool in tools.values())
    return profile.system.replace("{tools}", listed)
