"""What vLLM is compared with: answers of `generate`, steered without looking ahead and unsteered, as JSON.

python tests/serving/references.py FILE      (in the project's own environment)

Beside the committed adapter of SmolLM2 there is one of a random LFM2, which is written beside FILE.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from asa.support.environment import share_cores

share_cores()  # before torch is loaded

import torch
from conftest import fit_adapter, make_lfm2, make_prompts
from transformers import PreTrainedModel

from asa import load
from asa.adapter import ASAAdapter
from asa.data.requests import load_requests
from asa.models.profiles import EMBEDDED
from asa.models.wheels import model_from_wheel

COUNT, TOKENS = 24, 40
HEADS, HEAD = 4, 32  # vLLM's attention on a CPU takes heads of 32 numbers, not of the tests' 8


def answered(model: PreTrainedModel, adapter: ASAAdapter, ids: list[int], count: int = TOKENS, **options) -> dict:
    """The new tokens with the adapter and its decision, and those without."""
    row = torch.tensor([ids])
    options |= {"attention_mask": torch.ones_like(row), "max_new_tokens": count, "do_sample": False}
    plain = model.generate(row, **options)[0, len(ids) :].tolist()
    with adapter.steer(model, look_ahead=False) as trace:  # vLLM is not looked ahead
        new = model.generate(row, **options)[0, len(ids) :].tolist()
    return {"prompt": ids, "asa": {"ids": new, "decision": vars(trace.decisions[0])}, "plain": {"ids": plain}}


def smollm2() -> dict:
    """Requests under the committed adapter, and a conversation that goes on."""
    folder = ROOT / "outputs" / "asa_assets"
    assistant = load(folder)
    given = assistant.model, assistant.adapter
    requests = load_requests(ROOT / "data" / "held_out.jsonl")[:COUNT]
    rows = [answered(*given, assistant.prompter.ids(request.text)) for request in requests]
    first, second = rows[:2]
    later = first["prompt"] + first["asa"]["ids"] + second["prompt"][len(second["prompt"]) // 2 :]
    found = {"model": str(model_from_wheel(EMBEDDED.wheel)), "adapter": str(folder), "rows": rows}
    return found | {"later": answered(*given, later, 8)}


def lfm2(folder: Path) -> dict:
    """Random prompts of a random LFM2, which is saved with its adapter."""
    wide = HEADS * HEAD
    size = {"hidden_size": wide, "intermediate_size": 2 * wide, "num_attention_heads": HEADS}
    model = make_lfm2(**size, block_dim=wide, conv_dim=wide)  # the last two as the published configs have them
    prompts = make_prompts(tuple(range(2, 60, 5)), seed=3)
    adapter = fit_adapter(model, prompts).adapter
    model.save_pretrained(folder / "model")
    adapter.save(folder / "adapter")
    rows = [answered(model, adapter, ids, 12, eos_token_id=None, pad_token_id=0) for ids in prompts]
    return {"model": str(folder / "model"), "adapter": str(folder / "adapter"), "rows": rows}


def main(path: str) -> None:
    """Write them."""
    found = smollm2() | {"lfm2": lfm2(Path(path).resolve().with_suffix(""))}
    Path(path).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
