"""Any chat model: the engine gives what the model itself does, or refuses the family in one sentence."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import EOS, SPECIAL, TEMPLATE, make_prompts, make_tokenizer, one_push
from families import REFUSED, RUN, make_family
from helpers import assert_near, exact, full_forwards, generated
from torch.nn.functional import normalize
from truth import allowed_error

from asa.engine.engine import Engine
from asa.engine.selfcheck import refuse_inexact
from asa.evaluation.results import Results
from asa.models.fitting import shared_prefix
from asa.models.folders import ModelError
from asa.models.loading import refuse_other_attention, refuse_other_blocks
from asa.models.profiles import EMBEDDED, LFM25

ROOT = Path(__file__).parents[2]
LIMIT, LAYER = 6, 1


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
@pytest.mark.shows(
    "Each family that is said to run gives in the engine what the model itself gives: states, next tokens, "
    "pushes, answers"
)
def test_a_family_is_run_exactly(name, tried):
    """States, next token, a replayed push and whole answers; and the self-check lets it pass."""
    model = make_family(*RUN[name])
    refuse_other_blocks(model, name)
    refuse_other_attention(model, name)
    refuse_inexact(model, name)
    prompts = make_prompts((5, 9, 2, 14, 5, 9), seed=6, prefix=20)
    plain = full_forwards(model, prompts)
    (batch,) = Engine(model, shared_prefix(prompts)).batches(prompts, "test")
    read, order = batch.last_token(), batch.rows
    drawn = torch.randn(read.states[:, LAYER].shape, generator=torch.Generator().manual_seed(0))
    push = normalize(drawn, dim=1) * read.states[:, LAYER].norm(dim=1, keepdim=True)
    with exact(model) as twin:
        true = full_forwards(twin, prompts)
        pushed = []
        for place, row in enumerate(order):
            with one_push(twin, LAYER, push[place].double()):
                pushed.append(full_forwards(twin, [prompts[row]]).logits[0])
    allowed = allowed_error((plain.states, true.states), (plain.logits, true.logits))
    assert_near(read.states, true.states[order], allowed)
    assert_near(read.logits, true.logits[order], allowed)
    assert_near(batch.replay(LAYER, read.states[:, LAYER] + push), torch.stack(pushed), allowed)
    said = batch.decode(LIMIT, lambda answer: answer[-1] % 5 == 0)
    assert said == [generated(model, prompts[row], LIMIT) for row in order]
    tried(len(RUN), "families")


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.shows("Each family that the engine would run otherwise is refused in a sentence")
def test_a_family_that_would_come_out_otherwise_is_refused(name, tried):
    """By its blocks, by its attention, or by what comes out; and the sentence says why."""
    *made_of, why = REFUSED[name]
    model = make_family(*made_of)
    with pytest.raises(ModelError, match=rf"{why}.*choose a model of another family\.$"):
        refuse_other_blocks(model, name)
        refuse_other_attention(model, name)
        refuse_inexact(model, name)
    tried(len(REFUSED), "families")


@pytest.mark.parametrize("name", ["Gemma 2", "GPT-OSS", "StableLM"])
@pytest.mark.shows("The self-check refuses a model by what comes out alone, whatever its family is called")
def test_what_comes_out_tells_without_knowing_the_family(name):
    """Sinks and another attention change every state; a weak cap on scores is told by the config alone."""
    model = make_family(*REFUSED[name][:2])
    if name == "Gemma 2":
        model.config.attn_logit_softcapping = 1.0
        for block in model.model.layers:
            block.self_attn.attn_logit_softcapping = 1.0
    with pytest.raises(ModelError, match="gives other results in the engine than by itself"):
        refuse_inexact(model, name)


NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TEMPLATE
DATED = "{{ '<|im_start|>date\n' + strftime_now('%d %b %Y') + '<|im_end|>\n' }}" + TEMPLATE
OPENING = "{{ '<|im_start|>assistant\n' }}"
THINKING = TEMPLATE.replace(
    OPENING, OPENING + "{{ '' if enable_thinking | default(true) else '<think>\n\n</think>\n\n' }}"
)
WHOLE = {  # family -> a chat template in the manner of its own
    "Llama": DATED,
    "Qwen 2": TEMPLATE,
    "Qwen 3": THINKING,
    "Mistral": NO_SYSTEM,
    "Phi 3 and 4": TEMPLATE,
    "Gemma 3": NO_SYSTEM,
    "Granite": DATED,
    "OLMo 2": TEMPLATE,
    "LFM2 MoE": TEMPLATE,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_a_family_goes_through_the_whole_pipeline(name, small_requests, tmp_path):
    """From requests to report, in a process of its own; Llama has two end tokens, LFM2 its own trigger."""
    folder, out, model = tmp_path / "model", tmp_path / "out", make_family(*RUN[name])
    if name == "Llama":
        model.generation_config.eos_token_id = [EOS, EOS - 1]
    model.save_pretrained(folder)
    tokenizer = make_tokenizer(SPECIAL if "LFM2" in name else SPECIAL[:5])
    tokenizer.chat_template = WHOLE[name]
    tokenizer.save_pretrained(folder)
    given = ("--quick", "--profile", folder, "--requests", small_requests, "--out", out)
    done = subprocess.run([sys.executable, "pipeline.py", *map(str, given)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    results = Results.load(out / "quick" / "results.json")
    assert results.readings.layers and set(results.scores.test) == {"baseline", "probe", "asa", "asa_paper"}
    like = LFM25 if "LFM2" in name else EMBEDDED
    config = json.loads((out / "quick" / "asa_assets" / "config.json").read_text("utf-8"))
    assert config["profile"]["trigger"] == like.trigger
    assert f"so prompted like {like.name}" in done.stdout


def test_the_page_names_every_family():
    """In the order of the lists."""
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in re.findall(r"^\|.*\|$", page, re.MULTILINE)]
    verdicts = [(row[0], row[1]) for row in rows if len(row) == 3 and row[1] in ("runs", "refused")]
    assert verdicts == [*((name, "runs") for name in RUN), *((name, "refused") for name in REFUSED)]
