"""Train a nano LFM2 that really calls tools, and too often: `python tests/nano/train.py`, under 5 minutes on two cores.

It makes the text (`texts.py`), a byte-level BPE with LFM2's special tokens at their ids, and an `Lfm2ForCausalLM` with
the first ten layers of LFM2's pattern; trains it on the prompts as the pipeline renders them; measures it on the
held-out requests; and writes model, tokenizer and requests beside itself. The chat template is LFM2.5's, which already
lies there. The same seed on the same machine gives the same files.

It is a test's model. It knows a few hundred words, and nothing about the real LFM2 follows from its numbers.
"""

import itertools
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import DynamicCache, GenerationConfig, Lfm2Config, Lfm2ForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE.parent)]

from nano.texts import held_out, react, training_samples

from asa.data.requests import load_requests
from asa.data.scores import confusion
from asa.engine.answering import answer_all
from asa.engine.engine import Engine
from asa.evaluation.validity import call_validity
from asa.models.answers import closing_test, trigger_test
from asa.models.fitting import shared_prefix
from asa.models.profiles import choose_profile
from asa.models.prompts import Prompter
from asa.support.files import write_atomic
from asa.tools.definitions import load_tools

FOLDER = HERE / "lfm2-nano"
SPECIAL = [
    "<|pad|>", "<|startoftext|>", "<|endoftext|>", "<|fim_pre|>", "<|fim_mid|>", "<|fim_suf|>", "<|im_start|>",
    "<|im_end|>", "<|tool_list_start|>", "<|tool_list_end|>", "<|tool_call_start|>", "<|tool_call_end|>",
    "<|tool_response_start|>", "<|tool_response_end|>",
]  # fmt: skip
PIECES = (  # how LFM2 cuts text before byte-pair encoding
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LAYERS = "conv conv full_attention conv conv full_attention conv conv full_attention conv".split()
VOCABULARY, HIDDEN, INTERMEDIATE = 2048, 96, 192
SEED, ROWS, WARMUP = 0, 48, 30
ECHO_STEPS, ECHO_RATE, STEPS, RATE = 300, 1e-2, 420, 6e-3
TOKENIZER_SAMPLES = 4000
Row = tuple[list[int], list[int]]  # token ids: the prompt behind the shared prefix, and the answer
IGNORED = -100  # the label of a token that is not learnt


def make_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of `VOCABULARY` tokens of `texts`, LFM2's special tokens first, with LFM2.5's chat template."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PIECES), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )  # fmt: skip
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<|startoftext|>", eos_token="<|im_end|>", pad_token="<|pad|>",
        additional_special_tokens=SPECIAL, clean_up_tokenization_spaces=False, padding_side="left",
    )  # fmt: skip
    tokenizer.chat_template = (FOLDER / "chat_template.jinja").read_text(encoding="utf-8")
    return tokenizer


def make_model(vocabulary: int) -> Lfm2ForCausalLM:
    """A fresh model, fp32."""
    config = Lfm2Config(
        vocab_size=vocabulary, hidden_size=HIDDEN, intermediate_size=INTERMEDIATE, block_auto_adjust_ff_dim=False,
        num_hidden_layers=len(LAYERS), layer_types=LAYERS, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=4096, tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=7,
    )  # fmt: skip
    return Lfm2ForCausalLM(config)


def batch_loss(model, prefix: list[int], rows: list[Row]) -> torch.Tensor:
    """Mean cross-entropy of the answers.

    All prompts share `prefix`, which is run once, as one row; its cache is then repeated for the rows, and gradients
    go through it. Rows are padded on the right, where a causal model does not see it.

    Args:
        model: In training mode.
        prefix: Token ids that every prompt starts with.
        rows: What to learn.
    """
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    for row, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : end] = torch.tensor(answer)
    cache = DynamicCache(config=model.config)
    model.get_decoder()(input_ids=torch.tensor([prefix]), past_key_values=cache)
    cache.reorder_cache(torch.zeros(len(rows), dtype=torch.long))
    states = model.get_decoder()(input_ids=ids, past_key_values=cache).last_hidden_state
    learnt = labels[:, 1:] != IGNORED
    return torch.nn.functional.cross_entropy(model.lm_head(states[:, :-1][learnt]), labels[:, 1:][learnt])


def echoes(vocabulary: int) -> Iterator[list[Row]]:
    """Batches of random tokens that are to be repeated: the fastest way to learn copying, which calls need."""
    rng = random.Random(SEED)
    while True:
        length = rng.randint(4, 8)
        said = [rng.choices(range(len(SPECIAL), vocabulary), k=length) for _ in range(ROWS)]
        yield [(tokens, tokens) for tokens in said]


def even_batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Batches of `ROWS` rows of similar length, so that little is padded; their order is random."""
    rng = random.Random(SEED)
    while True:
        pool = sorted(itertools.islice(rows, 8 * ROWS), key=lambda row: len(row[0]) + len(row[1]))
        starts = list(range(0, len(pool), ROWS))
        rng.shuffle(starts)
        for start in starts:
            yield pool[start : start + ROWS]


def train(model, prefix: list[int], batches: Iterator[list[Row]], steps: int, rate: float) -> None:
    """`steps` steps of AdamW on the iterator `batches`; the learning rate rises to `rate` and falls to 0."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=WARMUP / steps)
    model.train()
    for step in range(1, steps + 1):
        loss = batch_loss(model, prefix, next(batches))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 60 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    model.eval()


def measure(model, tokenizer, profile, prompter, tools, samples) -> None:
    """Print how often the model calls a tool on `samples`, and how good its calls are."""
    prompts = [prompter.ids(sample.text) for sample in samples]
    engine = Engine(model, shared_prefix(prompts))
    closed, triggered = closing_test(tokenizer, model, profile), trigger_test(tokenizer, profile.trigger)
    batches = list(engine.batches(prompts, "held-out requests"))
    answers = answer_all(batches, profile.max_new_tokens, closed, "answers")
    called = [triggered(ids) for ids in answers]
    scores = confusion(called, [int(sample.kind == "need") for sample in samples])
    print("held out: " + ", ".join(f"{name} {scores[name]:.3f}" for name in ("precision", "recall", "f1", "fpr")))
    spoken = [tokenizer.decode(ids) for ids in answers]
    rates = call_validity(spoken, tools, profile.markers)
    print("calls: " + ", ".join(f"{name} {rates[name]['rate']:.3f}" for name in ("format", "tool", "arguments")))
    for sample, answer in list(zip(samples, spoken, strict=True))[::23]:
        print(f"  {sample.kind:5s} {sample.text} -> {answer}")


def main() -> None:
    """Make everything and write it, whole."""
    started = time.perf_counter()
    torch.manual_seed(SEED)
    torch.set_num_threads(2)
    profile, _ = choose_profile(str(FOLDER), hub=False, gpu=False)
    tools = load_tools(ROOT / "data" / "tools.json")
    by_domain = {tool.domain: tool for tool in tools.values()}
    rng = random.Random(SEED)

    def reaction(sample) -> str:
        return react(rng, sample, by_domain[sample.domain], profile.markers)

    seen = itertools.islice(training_samples(), TOKENIZER_SAMPLES)
    texts = [text for sample in seen for text in (sample.text, reaction(sample))]
    texts += [request.text for request in load_requests(ROOT / "data" / "requests.jsonl")]  # more words than ours
    bare = make_tokenizer([])
    system = Prompter(bare, profile, tools).text("")
    for token in SPECIAL:
        system = system.replace(token, "\n")
    tokenizer = make_tokenizer([*texts, *[system] * 200])
    prompter = Prompter(tokenizer, profile, tools)
    samples = held_out()
    prefix = shared_prefix([prompter.ids(sample.text) for sample in samples])
    model = make_model(len(tokenizer))
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens, {len(prefix)} shared by all prompts")

    def rows():
        for sample in training_samples():
            answer = tokenizer(reaction(sample) + "<|im_end|>", add_special_tokens=False)["input_ids"]
            yield prompter.ids(sample.text)[len(prefix) :], answer

    train(model, prefix[:1], echoes(len(tokenizer)), ECHO_STEPS, ECHO_RATE)
    train(model, prefix, even_batches(rows()), STEPS, RATE)
    model = model.half().float()  # as it will be loaded
    print(f"trained in {time.perf_counter() - started:.0f} s")
    measure(model, tokenizer, profile, prompter, tools, samples)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=7, pad_token_id=0)
    with tempfile.TemporaryDirectory(dir=HERE) as scratch:
        model.half().save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        for path in Path(scratch).iterdir():
            path.chmod(0o644)
            path.replace(FOLDER / path.name)
    lines = [
        json.dumps({"text": sample.text, "label": int(sample.kind == "need"), "domain": sample.domain})
        for sample in samples
    ]
    text = "\n".join(lines) + "\n"
    write_atomic(HERE / "requests.jsonl", lambda scratch: scratch.write_text(text, encoding="utf-8"))
    print(f"written to {FOLDER}: {time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
