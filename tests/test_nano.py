"""The nano LFM2: the shape it claims, too many calls, a need that can be read, and steering that moves it."""

import hashlib
import itertools
import json
from pathlib import Path

import pytest
import torch
from helpers import assert_same_gradients
from nano.texts import held_out, training_samples
from nano.train import batch_loss, make_model
from programs import run_script
from transformers import AutoModelForCausalLM, AutoTokenizer
from truth import NothingInFloat32, doubled

from asa.data.duplicates import near_duplicate_groups
from asa.data.requests import load_requests
from asa.models.profiles import choose_profile
from asa.models.prompts import Prompter
from asa.tools.definitions import load_tools

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
NANO = ROOT / "tests" / "nano"
FOLDER = NANO / "lfm2-nano"
TEMPLATE = ROOT.parent / "shared" / "lfm2" / "lfm2.5.jinja"
SPECIAL = (
    "<|pad|> <|startoftext|> <|endoftext|> <|fim_pre|> <|fim_mid|> <|fim_suf|> <|im_start|> <|im_end|> "
    "<|tool_list_start|> <|tool_list_end|> <|tool_call_start|> <|tool_call_end|> <|tool_response_start|> "
    "<|tool_response_end|>"
).split()


def run_pipeline(out: Path, *more: str) -> str:
    """What the pipeline prints on the nano model and its held-out requests."""
    done = run_script("--profile", FOLDER, "--requests", NANO / "requests.jsonl", "--out", out, *more)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> dict:
    """results.json of the whole pipeline."""
    out = tmp_path_factory.mktemp("nano")
    run_pipeline(out)
    return json.loads((out / "results.json").read_text())


def test_the_shape_is_lfm2s_and_small():
    """The first layers of LFM2's pattern, at most 3 M parameters, under 8 MB."""
    model = AutoModelForCausalLM.from_pretrained(FOLDER)
    kinds = ["full_attention" if layer in (2, 5, 8, 10, 12, 14) else "conv" for layer in range(16)]
    layers = model.config.layer_types
    assert model.config.model_type == "lfm2" and layers == kinds[: len(layers)] and len(layers) >= 6
    assert model.num_parameters() <= 3_000_000
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 8_000_000
    assert [path.name for path in FOLDER.glob("*.bin")] == []


def test_special_tokens_have_lfm2s_ids_and_the_template_is_lfm25s():
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    assert tokenizer.convert_ids_to_tokens(range(14)) == SPECIAL
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 7)
    assert len(tokenizer) >= 2000
    digest = hashlib.sha256(tokenizer.chat_template.encode()).hexdigest()
    assert digest.startswith("f05bf4b9") and digest.endswith("8176")
    if TEMPLATE.exists():
        assert tokenizer.chat_template == TEMPLATE.read_text(encoding="utf-8")


def test_the_tail_behind_a_request_is_lfm25s_five_tokens():
    """End of the user's turn, a new line, the assistant's turn: what the first two layers see."""
    profile, _ = choose_profile(str(FOLDER), hub=False, gpu=False)
    prompter = Prompter(AutoTokenizer.from_pretrained(FOLDER), profile, load_tools(ROOT / "data" / "tools.json"))
    assert [prompter.tokenizer.decode(token) for token in prompter.tail] == [
        "<|im_end|>", "\n", "<|im_start|>", "assistant", "\n",
    ]  # fmt: skip
    assert prompter.trigger_id == 10
    assert (prompter.key(), prompter.dated) == ("018909344cea1a93", False)


def test_the_shipped_requests_are_the_generators_and_were_not_trained_on():
    """Nor anything near them."""
    shipped = load_requests(NANO / "requests.jsonl")
    samples = held_out()
    assert [(request.text, request.domain) for request in shipped] == [(s.text, s.domain) for s in samples]
    assert [request.label for request in shipped] == [int(sample.kind == "need") for sample in samples]
    texts = {request.text for request in shipped}
    trained = [sample.text for sample in itertools.islice(training_samples(), 3000)]
    assert len(texts) == len(shipped) == 320 and not texts & set(trained)
    groups = near_duplicate_groups([*sorted(texts), *dict.fromkeys(trained)])
    assert not any(min(group) < len(texts) <= max(group) for group in groups)


def test_it_calls_too_often_and_its_calls_are_good(run):
    """As LFM2.5 is reported to: .4 to .65 of the requests without need are answered by a call."""
    assert 0.4 <= run["test"]["baseline"]["fpr"] <= 0.65
    assert run["validity"]["baseline"]["arguments"]["rate"] > 0.9


def test_the_need_can_be_read_but_not_in_the_first_two_layers(run):
    assert run["auc_plateau"] > 0.95
    assert [layer["layer"] for layer in run["layers"] if layer["constant"]] == [0, 1]


def test_steering_halves_the_false_calls_at_no_cost(run):
    baseline, steered = run["test"]["baseline"], run["test"]["asa"]
    assert steered["fpr"] <= baseline["fpr"] / 2
    assert steered["f1"] >= baseline["f1"]


def test_the_grammar_touches_no_decision(run, tmp_path):
    """Every score of the decision is the same without it; with it, every call fits."""
    run_pipeline(tmp_path, "--no-grammar")
    free = json.loads((tmp_path / "results.json").read_text())
    for name in ("test", "first_token", "per_domain", "ablations", "mcnemar"):
        assert free[name] == run[name], name
    assert "tool_choice" not in free and run["tool_choice"]["choice"] == "routed"
    assert {rates["rate"] for rates in run["validity"]["asa"].values()} == {1.0}
    assert free["calls"]["asa"]["called"] == run["calls"]["asa"]["called"]


def test_a_quick_look_says_what_it_is(tmp_path):
    """Wherever its numbers appear; it has a folder of its own."""
    printed = run_pipeline(tmp_path, "--quick")
    assert [path.name for path in tmp_path.iterdir()] == ["quick"]
    results = json.loads((tmp_path / "quick" / "results.json").read_text())
    assert results["benchmark"]["n_test"] == 64 and results["settings_scored"] <= 180
    adapter = json.loads((tmp_path / "quick" / "asa_assets" / "config.json").read_text())
    texts = [(tmp_path / "quick" / name).read_text().split("\n\n")[1] for name in ("report.md", "errors.md")]
    for said in (printed, results["benchmark"]["name"], adapter["benchmark"], *texts):
        assert "quick look" in said


def test_training_on_one_shared_prefix_is_exact():
    """Loss and gradients are those of whole sequences, each alone."""
    torch.manual_seed(0)
    model = make_model(300).train()
    prefix = torch.randint(14, 300, (20,)).tolist()
    rows = [(torch.randint(14, 300, (n,)).tolist(), torch.randint(14, 300, (m,)).tolist()) for n, m in ((2, 5), (7, 3))]

    def alone(of) -> torch.Tensor:
        losses = []
        for prompt, answer in rows:
            logits = of(input_ids=torch.tensor([prefix + prompt + answer]), use_cache=False).logits[0, :-1]
            target = torch.tensor(answer)
            losses.append(torch.nn.functional.cross_entropy(logits[-len(answer) :], target, reduction="sum") / 8)
        return sum(losses)

    def gradients(of, loss: torch.Tensor) -> list[torch.Tensor]:
        return [loss, *torch.autograd.grad(loss, list(of.parameters()))]

    found, plain = gradients(model, batch_loss(model, prefix, rows)), gradients(model, alone(model))
    with NothingInFloat32():
        twin = doubled(model)
        true = gradients(twin, alone(twin))
    assert_same_gradients(found, plain, true)
