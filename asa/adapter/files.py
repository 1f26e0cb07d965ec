"""The adapter's files: `config.json` and `adapter.safetensors`, read from a folder or the hub and checked.

Every fault is one sentence that names the file and, where it is another, the version that wrote it. Nothing is
unpickled. A checksum finds what they decide by and was changed since they were saved; it is no signature, whoever means
harm can write another.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from asa.adapter.decision import AdapterError
from asa.support.files import VERSION, json_text
from asa.support.hub import hub_sentence

FORMAT = 1
FILES = ["config.json", "adapter.safetensors"]
CHECKSUM = "sha256"  # in the config
# what the checksum covers; prompt and tools have hash and checks of their own
DECIDING = ("layer", "alpha", "dose", "tau", "domains", "model", "prefix")
MAY_DECIDE = ("look_ahead", "trigger_id", "threshold", "calibration", "weighs_probes", "tool_choice")  # if present
EARLIER = MAY_DECIDE[:-1]  # that of adapters which were saved before tool_choice was covered
CHANGED = (
    "{} holds an adapter{} that was changed since it was saved (its checksum differs): get it again, or, if you "
    "changed it yourself, load it with force=True and save it."
)


class HubOptions(TypedDict, total=False):
    """Where the hub's files come from, as `huggingface_hub` names it.

    Attributes:
        revision: Branch, tag or commit.
        token: Of a user who may read it.
        cache_dir: Where they are kept.
        local_files_only: Whether the hub is not asked.
    """

    revision: str
    token: str | bool
    cache_dir: str | Path
    local_files_only: bool


def checksum(config: dict, arrays: bytes, may_decide: tuple[str, ...] = MAY_DECIDE) -> str:
    """SHA-256 over what a config decides by and over the file of arrays, as 64 hex digits."""
    covered = {name: config.get(name) for name in DECIDING} | {
        name: config[name] for name in may_decide if name in config
    }
    text = json.dumps(covered, sort_keys=True)
    return hashlib.sha256(f"{hashlib.sha256(arrays).hexdigest()} {text}".encode()).hexdigest()


def config_text(config: dict, arrays: bytes) -> str:
    """The text of `config.json`, for what the file of arrays holds."""
    settings = json.loads(json_text({"format": FORMAT} | config | {"asa_version": VERSION}))
    return json_text(settings | {CHECKSUM: checksum(settings, arrays)})


def read_adapter(source: str | Path, **hub: Unpack[HubOptions]) -> tuple[Path, dict, dict[str, torch.Tensor], bool]:
    """An adapter's files, from a folder or a hub id.

    Returns:
        (path of the config, the config without its checksum, the arrays, whether the checksum is right; adapters of
        earlier versions have none, and pass).

    Raises:
        AdapterError: No adapter there, another format version, or a damaged file.
    """
    folder = Path(os.path.expanduser(source))
    if not folder.is_dir() and str(source).count("/") == 1 and not folder.is_absolute():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(str(source), allow_patterns=FILES, **hub))
        except Exception as error:
            said = hub_sentence(str(source), error, hub.get("revision", "main"), "give an adapter's folder")
            raise AdapterError(
                said or f"{source}: no such folder, and the hub does not give it ({type(error).__name__})."
            ) from error
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(config, dict) or config.get("format") is not FORMAT:
            raise AdapterError(
                f"{path} is not an adapter of format {FORMAT}{written_by(config)}: fit again with this version."
            )
        stored = (folder / "adapter.safetensors").read_bytes()
        arrays = load(stored)
    except FileNotFoundError as error:
        missing = Path(error.filename or "").name or error
        raise AdapterError(f"{folder} holds no adapter: {missing} is missing.") from error
    except AdapterError:
        raise
    except (ValueError, RecursionError, OSError, SafetensorError) as error:
        raise AdapterError(f"{folder} holds a damaged adapter ({error}): save it again.") from error
    untouched = CHECKSUM not in config
    if not untouched:
        said = config.pop(CHECKSUM)
        untouched = any(said == checksum(config, stored, covered) for covered in (MAY_DECIDE, EARLIER))
    return path, config, arrays, untouched


def written_by(config: Any) -> str:
    """Which version of this package wrote an adapter's config, in brackets; empty where it is this one."""
    version = config.get("asa_version", "before 0.2.0") if isinstance(config, dict) else VERSION
    return "" if version == VERSION else f" (written by asa {version}, read by {VERSION})"
