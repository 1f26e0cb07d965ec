"""Tokenizer files: whether a model's tokenizer knows a text, before anything of the model is loaded."""

import contextlib
import os
from pathlib import Path

from asa.support.hub import HTTP_ERROR

FILES = ("tokenizer_config.json", "tokenizer.json", "chat_template.jinja")


def tokenizer_knows(text: str, place: str, revision: str, hub: bool) -> bool | None:
    """Whether the tokenizer of a folder or hub id, or its chat template, names `text`; None where it has no such file.

    Args:
        text: Such as a special token.
        place: A folder or hub id.
        revision: Of a hub id.
        hub: Whether the hub answers; without it, its files are looked for in the cache.
    """
    found = None
    for name in FILES:
        with contextlib.suppress(OSError, ValueError, HTTP_ERROR):  # whatever keeps a file away, the next is tried
            if text in _file(place, name, revision, hub).read_text("utf-8"):
                return True
            found = False
    return found


def _file(place: str, name: str, revision: str, hub: bool) -> Path:
    if os.path.isdir(place):
        return Path(place, name)
    from huggingface_hub import hf_hub_download  # takes a moment, and most runs need it not

    return Path(hf_hub_download(place, name, revision=revision, local_files_only=not hub))
