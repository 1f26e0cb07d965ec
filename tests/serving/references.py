"""What vLLM is compared with: answers of `generate` under `adapter.steer`, and without, as JSON.

python tests/serving/references.py FILE      (in the project's own environment)
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from asa.support.environment import share_cores

share_cores()  # before torch is loaded

import torch

from asa import load
from asa.data.requests import load_requests
from asa.models.profiles import EMBEDDED
from asa.models.wheels import model_from_wheel

COUNT, TOKENS = 24, 40


def main(path: str) -> None:
    """Write them."""
    assistant = load(ROOT / "outputs" / "asa_assets")
    model, adapter, prompter = assistant.model, assistant.adapter, assistant.prompter

    def answered(ids: list[int], steer: bool, count: int = TOKENS) -> dict:
        row = torch.tensor([ids])
        options = {"attention_mask": torch.ones_like(row), "max_new_tokens": count, "do_sample": False}
        if not steer:
            return {"ids": model.generate(row, **options)[0, len(ids) :].tolist()}
        with adapter.steer(model) as trace:
            new = model.generate(row, **options)[0, len(ids) :].tolist()
        return {"ids": new, "decision": vars(trace.decisions[0])}

    found: dict = {"model": str(model_from_wheel(EMBEDDED.wheel)), "adapter": str(ROOT / "outputs" / "asa_assets")}
    prompts = [prompter.ids(request.text) for request in load_requests(ROOT / "data" / "held_out.jsonl")[:COUNT]]
    found["rows"] = [{"prompt": ids, "asa": answered(ids, True), "plain": answered(ids, False)} for ids in prompts]
    first = found["rows"][0]
    later = first["prompt"] + first["asa"]["ids"] + prompts[1][len(prompts[1]) // 2 :]
    found["later"] = {"prompt": later, "asa": answered(later, True, 8), "plain": answered(later, False, 8)}
    Path(path).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
