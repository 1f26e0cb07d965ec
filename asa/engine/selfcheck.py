"""Self-check: does the engine compute what the model itself does? Asked once, of a model that has just been loaded.

The engine calls a model's blocks in its own way: behind a shared prefix, rows side by side, one token again. A family
that does not fit in is refused by what comes out, whatever its blocks are called. It compares a few tokens and takes
far less than a second; rounding is not its business, and a model that fits is not told from one by how near it comes.
"""

import torch

from asa.engine.engine import Engine
from asa.models.folders import ModelError
from asa.models.layout import CausalModel, block_output, decoder_layers, hooked, input_device
from asa.support.processes import gathered

PREFIX, SUFFIXES = 8, (3, 5, 3)  # tokens that all share, and own ones: two rows of one length and one of another
REASONS = {  # key of a model's config -> what it has that the engine is known not to follow
    "mamba_d_state": "Mamba blocks, whose state is not forked",
    "num_kv_shared_layers": "blocks that share keys and values",
    "kv_lora_rank": "latent attention",
}
APART = 0.1  # of a vector's length: rounding is a hundred times less, also in 16 bits; a wrong path ten times more


def refuse_inexact(model: CausalModel, name: str) -> None:
    """Refuse a model that the engine does not run as the model runs itself.

    States behind every block, next-token logits, and both after a replay are compared with plain forward passes.

    Args:
        model: In evaluation mode.
        name: What it is called in the sentence.

    Raises:
        ModelError: They differ, or the engine cannot run it at all.
    """
    prompts = _prompts(model.get_input_embeddings().weight.shape[0])
    plain = [_plain(model, prompt) for prompt in prompts]
    fault, same = None, True
    try:
        for batch in Engine(model, prompts[0][:PREFIX]).batches(prompts, ""):
            read = batch.last_token()
            middle = read.states.shape[1] // 2
            replayed = batch.replay(middle, read.states[:, middle])
            states, logits = (torch.stack([plain[row][part] for row in batch.rows]) for part in (0, 1))
            same = _near(read.states, states) and _near(read.logits, logits) and _near(replayed, logits)
    except torch.OutOfMemoryError:  # which says nothing of the family
        raise
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        fault, same = error, False
    if not all(gathered([same])):  # of several processes one has the rows
        family = model.config.model_type
        has = [what for key, what in REASONS.items() if getattr(model.config, key, None)]
        why = f" has {' and '.join(has)}, and" if has else ""
        raise ModelError(
            f"{name} ({family}){why} gives other results in the engine than by itself: choose a model of another "
            "family."
        ) from fault


def _prompts(vocabulary: int) -> list[list[int]]:
    """Token ids spread over the vocabulary; all begin alike, and differ right behind that."""
    count = PREFIX + sum(SUFFIXES)
    ids = [1 + (place * 7919) % (vocabulary - 1) for place in range(count)]
    shared, rest = ids[:PREFIX], iter(ids[PREFIX:])
    return [shared + [next(rest) for _ in range(length)] for length in SUFFIXES]


def _plain(model: CausalModel, prompt: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """States `[layers, H]` and logits `[vocabulary]` at the last token, by the model's own forward pass."""
    states: list[torch.Tensor] = []
    hooks = [
        block.register_forward_hook(lambda _m, _a, out: states.append(block_output(out)[0, -1].float().cpu()))
        for block in decoder_layers(model)
    ]
    ids = torch.tensor([prompt], device=input_device(model))
    with hooked(*hooks), torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits[0, -1].float().cpu()
    return torch.stack(states), logits


def _near(found: torch.Tensor, true: torch.Tensor) -> bool:
    """Every vector `[..., d]` is near the true one; a NaN is not."""
    apart = (found.float().cpu() - true).norm(dim=-1)
    return bool((apart <= APART * true.norm(dim=-1)).all())
