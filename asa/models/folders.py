"""Model folders: what is wrong with one that cannot be loaded, as far as its files tell.

Libraries fail at such a folder in many ways, far from its cause. Nothing here loads a model.
"""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from asa.support.files import UserError
from asa.support.hub import said_by

LFS_POINTER = b"version https://git-lfs"
LFS_SIZE = 1024  # bytes; no pointer is larger
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")


class ModelError(UserError):
    """A model is not available or does not fit its profile; the message says why and what to do."""


def folder_fault(folder: Path, part: str, error: BaseException) -> str:
    """What is wrong with a model folder and what to do.

    Args:
        folder: The folder.
        part: What of it could not be loaded, "config", "tokenizer" or "model".
        error: What was raised then.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
        broken = next(
            (f"{path.name} {fault}; get the file again" for path in files if (fault := _file_fault(path))), ""
        )
    except OSError as denied:
        return f"{denied.filename} cannot be read ({denied.strerror}); make it readable"
    names, kinds = {path.name for path in files}, {path.suffix for path in files}
    if broken:
        return broken
    if "config.json" not in names:
        return _what_else(names, kinds)
    for index in folder.glob("*.safetensors.index.json"):
        for shard in sorted(set(json.loads(index.read_bytes())["weight_map"].values()) - names):
            return f"{shard}, which {index.name} names, is missing; get all files again"
    if part == "tokenizer" and not names & set(TOKENIZERS):
        return "it holds no tokenizer, such as tokenizer.json; get all files again"
    if part == "model" and not kinds & {".safetensors", ".bin"}:
        return "it holds no weights, such as model.safetensors; get all files again"
    if "ignore_mismatched_sizes" in str(error):
        return "its weights do not have the shapes that config.json gives them; get both from one model"
    if "custom code" in str(error):
        return "it asks for code of its own, which is never run; choose a model that transformers knows"
    if "Unrecognized model" in str(error):
        return "config.json names no model_type; get the file again"
    return f"its {part} cannot be used ({said_by(error)}); mend that, or choose another model"


def _what_else(names: set[str], kinds: set[str]) -> str:
    """What a folder without a config.json holds in place of a model."""
    if "adapter_config.json" in names:
        return "it holds a PEFT adapter and no model; merge the adapter into its model and give that folder"
    if ".gguf" in kinds:
        return "it holds a GGUF file only; give the folder of the model in safetensors form"
    return "config.json is missing; give a folder that holds a model"


def _file_fault(path: Path) -> str:
    """What is wrong with one file of a model, by its form."""
    if path.stat().st_size <= LFS_SIZE and path.read_bytes().startswith(LFS_POINTER):
        return "is a git-LFS pointer in place of the file (`git lfs pull` fetches it)"
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt"):
                return ""
        value = json.loads(path.read_bytes()) if path.suffix == ".json" else {}
    except SafetensorError:
        return "is damaged or cut short"
    except ValueError:
        return "is not JSON"
    index = path.name.endswith(".index.json")
    if (index or path.name == "config.json") and not isinstance(value, dict):
        return "holds no JSON object"
    return "names no weights" if index and not isinstance(value.get("weight_map"), dict) else ""
