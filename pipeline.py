# %% [markdown] title
# # ASA: steering a small language model's tool calls
#
# [![Open In
# Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/gyunggyung/Liquid-ASA/blob/main/ASA_LFM25_Pipeline.ipynb)
#
# Small models call tools when they should answer, and answer when they should call. Often the model *knows*: a linear
# probe on an inner layer reads "this needs a tool" far better than the model acts on it. The **Activation Steering
# Adapter** uses that. At one layer, once per answer, at the last prompt token, a router picks the tool domain, a
# probe scores the need, and a gate (+1, 0, -1) adds or subtracts a steering vector. No weights change.
#
# **Run all** fits, tunes, tests and saves an adapter. On a GPU with the hub it takes
# `LiquidAI/LFM2.5-1.2B-Instruct` and Alpaca (not timed on a T4 by us); elsewhere `SmolLM2-135M-Instruct`, ten to
# fifteen minutes on two CPU cores. Interrupted? Run all again: finished stages are reused.

# %% [markdown] parameters-text
# ## Parameters
# - `PROFILE`: `auto`, `embedded`, `gemma3-270m`, `lfm2.5`, a hub id or a model folder.
# - `PROMPT_STYLE`, for LFM2 models: `liquid`, the tool list as Liquid documents it, or `original`, as the original
#   project asked.
# - `ALPACA`: a parquet file; empty takes it from the hub. `REQUESTS`, `TOOLS`: your own files (see the README).
# - `OUT`: the folder for all that a run writes.
# - `LAYERS`: layers to try steering at, such as `8,12`; empty lets the sweep choose.
# - `DEVICE_MAP`: `auto` spreads a model larger than one card over all cards.
# - `PROOF`: `steering` sets ASA beside simpler means and beside itself in parts, and draws doses and layers; `all` also
#   trains LoRA and changes splits, domains and labels. On two CPU cores `all` takes two to three hours.
# - `CHAT`: a chat cell at the end, which waits for you.
#
# An empty field takes its default.

# %% parameters tags=parameters
PROFILE = "auto"  # @param {type:"string"}
PROMPT_STYLE = "liquid"  # @param ["liquid", "original"]
ALPACA = ""  # @param {type:"string"}
REQUESTS = ""  # @param {type:"string"}
TOOLS = "data/tools.json"  # @param {type:"string"}
OUT = "outputs"  # @param {type:"string"}
LAYERS = ""  # @param {type:"string"}
DEVICE_MAP = ""  # @param ["", "auto"]
PROOF = ""  # @param ["", "steering", "all"]
SEED = 0  # @param {type:"integer"}
DEMO_ROWS = 6  # @param {type:"integer"}
CHAT = False  # @param {type:"boolean"}

# %% package title=Package_and_data hide=true archive=asa,data

# %% errors mode=script
from asa.support.files import errors_in_one_sentence

errors_in_one_sentence()

# %% setup title=Setup hide=true
from asa.support.environment import check_environment

check_environment()  # installs only what is missing, never torch or NumPy

# %% command-line mode=script
import os
from argparse import ArgumentParser

from asa.support.processes import print_any_text, quiet_unless_first

parser = ArgumentParser(description="Fit, tune, test and save an activation-steering adapter for tool calling.")
parser.add_argument(
    "--profile", default=PROFILE, help="auto, embedded, gemma3-270m, lfm2.5, a hub id or a model folder"
)
parser.add_argument("--prompt-style", default=PROMPT_STYLE, help="liquid or original, for LFM2 models")
parser.add_argument("--alpaca", default=os.environ.get("ASA_ALPACA", ALPACA), help="Alpaca as a parquet file")
parser.add_argument("--requests", default=REQUESTS, help="your own labelled requests, JSON lines")
parser.add_argument("--tools", default=TOOLS, help="tool schemas, JSON")
parser.add_argument("--out", default=OUT, help="output folder")
parser.add_argument(
    "--layers", default=LAYERS, help="layers to try steering at, such as 8,12; empty: the sweep chooses"
)
parser.add_argument("--device-map", default=DEVICE_MAP, help="auto: spread a model larger than one card over all cards")
parser.add_argument(
    "--proof", default=PROOF, help="steering: rivals and ablations; all: also LoRA, other splits and labels"
)
options = parser.parse_args()
PROFILE, PROMPT_STYLE, ALPACA, REQUESTS = options.profile, options.prompt_style, options.alpaca, options.requests
TOOLS, OUT, LAYERS = options.tools, options.out, options.layers
DEVICE_MAP, PROOF = options.device_map, options.proof
quiet_unless_first()
print_any_text()

# %% parameters-read title=Check_the_parameters hide=true
from asa.support.parameters import given_layers, given_path, one_of, output_folder, whole_number, yes_or_no
from asa.models.profiles import given_profile
from asa.models.profiles import PROMPT_STYLES

PROFILE = given_profile("PROFILE", PROFILE)
PROMPT_STYLE = one_of("PROMPT_STYLE", PROMPT_STYLE, PROMPT_STYLES)
ALPACA, REQUESTS = given_path("ALPACA", ALPACA), given_path("REQUESTS", REQUESTS)
TOOLS = given_path("TOOLS", TOOLS, "data/tools.json")
OUT = output_folder("OUT", OUT, "outputs", ("checkpoints", "asa_assets"))
LAYERS = given_layers("LAYERS", LAYERS)
DEVICE_MAP = one_of("DEVICE_MAP", DEVICE_MAP, ("", "auto"))
PROOF = one_of("PROOF", PROOF, ("", "steering", "all"))
SEED, DEMO_ROWS = whole_number("SEED", SEED, 0), whole_number("DEMO_ROWS", DEMO_ROWS, 6)
CHAT = yes_or_no("CHAT", CHAT)

# %% [markdown] requests-text
# ## Requests and tools
# Labelled requests, split into CAL (vectors), TRAIN (readers, with CAL), VALID (every choice) and TEST (looked at
# once). What the balanced splits leave, and the hand-written requests where Alpaca is the benchmark, help to fit the
# readers, unless they resemble a request of a split. What stands among the tools' examples, or resembles one, is in
# none: its answer is in a prompt.

# %% requests
from asa.models.loading import hub_answers
from asa.support.processes import from_first
from asa.models.profiles import choose_profile
from asa.data.examples import with_examples, without_examples
from asa.data.requests import choose_requests, load_requests
from asa.data.splits import requests_key, spare_requests, split_requests
from asa.tools.definitions import load_tools

import torch

hub = from_first(hub_answers())
profile, profile_why = choose_profile(PROFILE, hub, torch.cuda.is_available(), PROMPT_STYLE)
tools = load_tools(TOOLS)
domains = [tool.domain for tool in tools.values()]
requests, benchmark, requests_why = choose_requests(REQUESTS, ALPACA, hub, "data", domains)
print(f"profile {profile.name} ({profile.model_id}): {profile_why}")
print(f"requests: {len(requests)} {benchmark} ({requests_why})")
number_given = len(requests)
if profile.few_shot:
    tools, requests = with_examples(tools, requests)
requests = without_examples(requests, tools)  # whatever the profile: the proof's other prompts show examples too
if len(requests) < number_given:
    print(f"{number_given - len(requests)} left out, which are among the tools' examples or resemble one")
splits = split_requests(requests, SEED)
hand_written = load_requests("data/requests.jsonl", domains) if benchmark == "alpaca" else []
spare = spare_requests(requests + without_examples(hand_written, tools), splits)
labels = {name: [request.label for request in rows] for name, rows in splits.items()}
print(", ".join(f"{name.upper()} {len(rows)}" for name, rows in splits.items()), f"and {len(spare)} for the readers")

# %% [markdown] model-text
# ## Model

# %% model
from asa.support.checkpoints import Checkpoints
from asa.support.files import key_of
from asa.models.answers import closing_test, trigger_test
from asa.models.loading import load_model
from asa.models.fingerprint import weights_key
from asa.models.prompts import Prompter
from asa.models.fitting import fitting_prompts, shared_prefix
from asa.models.templates import PROMPT_DATE
from asa.method.layers import layers_by_hand

import time

started = time.perf_counter()
model, tokenizer, model_source = load_model(profile, hub, DEVICE_MAP)
seconds_loading = time.perf_counter() - started
layers_by_hand(LAYERS, model.config.num_hidden_layers)  # refuses a layer that is none of them before all else
prompter = Prompter(tokenizer, profile, tools)
prompts = {name: fitting_prompts(prompter, model, rows) for name, rows in splits.items()}
spare_prompts = fitting_prompts(prompter, model, spare)
prefix = shared_prefix([ids for rows in (*prompts.values(), spare_prompts) for ids in rows])
trigger_id = prompter.trigger_id
triggered = trigger_test(tokenizer, profile.trigger, prompter.opened)
closed = closing_test(tokenizer, model, profile, prompter.opened)
checkpoints = Checkpoints(f"{OUT}/checkpoints")
writer = checkpoints.writer
run_key = key_of(
    model_source, weights_key(model), profile.name, str(model.dtype), model.device.type, prompter.key(),
    requests_key(splits), SEED,
)  # fmt: skip
print(
    f"{model_source}: {model.config.num_hidden_layers} layers, {model.dtype}, {model.device}, "
    f"loaded in {seconds_loading:.1f} s"
)
if prompter.dated:
    print(f"the chat template prints the date: in every prompt it is {PROMPT_DATE:%d %B %Y}, on whatever day")
print(
    f"prompts share {len(prefix)} tokens; the longest has {max(len(ids) for rows in prompts.values() for ids in rows)}"
)

# %% [markdown] sweep-text
# ## Layer sweep
# One prefill per request gives the state at the last prompt token behind every block, and whether the unsteered
# model would call.

# %% sweep
from asa.engine.engine import Engine
from asa.evaluation.figures import plot_probe_sweep
from asa.method.probes import choose_probe
from asa.method.layers import LayerReading, length_control, plateau_layer, sweep_layers
from asa.engine.states import Reading, read_states
from asa.method.layers import layers_to_steer

import numpy as np

engine = Engine(model, prefix)


def read_part(name, asked):
    """States and next tokens of requests, from their checkpoint where there is one."""
    kept = checkpoints.stage(
        f"states-{name}",
        key_of(run_key, name, asked),
        lambda: vars(read_states(engine, asked, trigger_id, f"{name} states")),
    )
    return Reading(**kept)


read = {name: read_part(name, prompts[name]) for name in ("cal", "train", "valid")}
fit_states = np.concatenate([read["cal"].states, read["train"].states])
fit_labels = np.array(labels["cal"] + labels["train"])
fit_domains = [request.domain for name in ("cal", "train") for request in splits[name]]
spare_states = read_part("spare", spare_prompts).states if spare else fit_states[:0]
known_states = np.concatenate([fit_states, spare_states])  # the readers' rows
known_labels = np.concatenate([fit_labels, [request.label for request in spare]]).astype(int)
known_domains = fit_domains + [request.domain for request in spare]
readers_key = key_of(run_key, known_labels.tolist(), known_domains, spare_prompts)
lengths = {name: [len(ids) for ids in rows] for name, rows in prompts.items()}


def sweep():
    """AUC of every layer, the two controls, and the probes' regularisation where one may steer, all on VALID."""
    readings = sweep_layers(fit_states, fit_labels, read["valid"].states, labels["valid"], SEED)
    layer = max(layers_to_steer(readings, LAYERS), key=lambda layer: readings[layer].auc)
    strength, own = choose_probe(
        known_states[:, layer], known_labels, known_domains, read["valid"].states[:, layer], labels["valid"], domains
    )
    length = length_control(lengths["cal"] + lengths["train"], fit_labels, lengths["valid"], labels["valid"])
    return {"readings": [vars(reading) for reading in readings], "length": length, "strength": strength, "own": own}


swept = checkpoints.stage("sweep", key_of(readers_key, LAYERS), sweep)
readings = [LayerReading(**reading) for reading in swept["readings"]]
plateau = plateau_layer(readings)
kinds = list(getattr(model.config, "layer_types", None) or ["full_attention"] * len(readings))
constant = [reading.layer for reading in readings if reading.constant]
constant_note = (
    f"Left out, the same state for every prompt: layers {constant}." if constant else "No layer is constant."
)
print(
    f"plateau layer L* {plateau}, AUC {readings[plateau].auc:.4f}; length alone {swept['length']:.3f}. {constant_note}"
)
print(f"probes: C {swept['strength']}, own share {swept['own']}")

# %% [markdown] tuning-text
# ## Tuning on VALID
# Every setting is scored by the model's next token after the push. `action` and the paper's `necessity` each get
# their best.

# %% directions
from asa.evaluation.figures import plot_cosines, plot_settings
from asa.method.probes import fit_readers
from asa.engine.answering import answer_all, answer_chosen, answer_steered
from asa.engine.states import read_prompts
from asa.method.tuning import (
    BETAS,
    DOSES,
    TAUS,
    Setting,
    best_setting,
    settings_to_json,
    sweep_settings,
)
from asa.method.directions import DIRECTIONS, NECESSITY, cosine_matrix, fit_directions, mixed

steerable = layers_to_steer(readings, LAYERS)
cal_domains = [request.domain for request in splits["cal"]]
cal = read["cal"]


def readers_at(layer):
    """Scaler, router and probes of a layer, fitted on CAL, TRAIN and the spare requests."""
    return fit_readers(known_states[:, layer], known_labels, known_domains, domains, swept["strength"], swept["own"])


def directions_at(layers):
    """(direction, layer) -> domain -> unit vector, fitted on CAL."""
    return {
        (kind, layer): fit_directions(
            kind, cal.states[:, layer], labels["cal"], cal_domains, cal.called, cal.log_odds, domains
        )
        for kind in DIRECTIONS
        for layer in layers
    }


readers, directions = {layer: readers_at(layer) for layer in steerable}, directions_at(steerable)

# %% adapter
from asa.adapter import ASAAdapter
from asa.models.fingerprint import fingerprint
from asa.models.saved_profiles import profile_beside, profile_to_json
from asa.tools.definitions import tools_to_json


def make_adapter(setting):
    """The adapter of a setting, with everything its config says, and its vectors `[D, H]`."""
    reader = readers[setting.layer]
    vectors = mixed(directions[setting.direction, setting.layer], setting.beta, domains)
    kept = profile_beside(profile, f"{OUT}/asa_assets")
    config = {
        "layer": setting.layer, "L_star": setting.layer, "direction": setting.direction, "dose": setting.dose,
        "alpha": setting.dose * reader.mean_norm, "tau": setting.tau, "beta": setting.beta, "domains": domains,
        "model_id": kept.model_id, "model_source": model_source, "model": fingerprint(model),
        "chat_template_hash": prompter.template_hash, "prompt_hash": prompter.key(),
        "profile": profile_to_json(kept), "tools": tools_to_json(tools), "data_hash": requests_key(splits),
        "benchmark": benchmark, "seed": SEED, "method": "arXiv 2602.04935 v1/v2",
        "valid": {"f1": setting.f1, "fpr": setting.fpr},
    }  # fmt: skip
    return ASAAdapter.from_readers(reader, vectors, config), vectors


# %% tuning
from asa.data.scores import confusion

valid_labels = labels["valid"]
valid_baseline = confusion(read["valid"].called, valid_labels)
trigger_room = len(tokenizer(profile.trigger, add_special_tokens=False)["input_ids"]) + 3


def tune():
    """Score all settings on VALID by replay; confirm the best by generating far enough to see a call begin."""
    reading, batches = read_prompts(engine, prompts["valid"], trigger_id, "VALID prefill")
    scored = sweep_settings(batches, reading.states, reading.called, valid_labels, readers, directions, trigger_id)
    best, _ = make_adapter(best_setting(scored, valid_baseline["fpr"]))
    plain = answer_all(batches, trigger_room, closed, "VALID baseline")
    steered, _ = answer_steered(batches, reading.states, best, plain, trigger_room, closed, "VALID ASA")
    generated = confusion([triggered(ids) for ids in steered], valid_labels)
    return {"settings": settings_to_json(scored), "generated": generated}


tuned = checkpoints.stage("tuning", key_of(readers_key, swept, steerable, DOSES, BETAS, TAUS), tune)
settings = [Setting(**setting) for setting in tuned["settings"]]
valid_generated = tuned["generated"]
chosen = best_setting(settings, valid_baseline["fpr"])
paper_setting = best_setting(settings, valid_baseline["fpr"], NECESSITY)
best_by_direction = {kind: best_setting(settings, valid_baseline["fpr"], kind) for kind in DIRECTIONS}
adapter, vectors = make_adapter(chosen)
paper_adapter, _ = make_adapter(paper_setting)
print(f"{len(settings)} settings; unsteered VALID F1 {valid_baseline['f1']:.3f}, FPR {valid_baseline['fpr']:.3f}")
for kind, best in best_by_direction.items():
    print(
        f"best {kind}: layer {best.layer}, dose {best.dose}, beta {best.beta}, tau {best.tau}: "
        f"F1 {best.f1:.3f}, FPR {best.fpr:.3f}"
    )
print(f"the best, confirmed by generation: F1 {valid_generated['f1']:.3f}, FPR {valid_generated['fpr']:.3f}")
chosen_layers = {"plateau rule, L*": plateau, "chosen by steering": chosen.layer}
cosines = {kind: cosine_matrix(directions[kind, chosen.layer], domains) for kind in DIRECTIONS}
writer.write(
    f"{OUT}/probe_sweep.png",
    lambda path: plot_probe_sweep(readings, swept["length"], kinds, chosen_layers, path),
)
writer.write(f"{OUT}/hp_sweep.png", lambda path: plot_settings(settings, best_by_direction, valid_baseline, path))
writer.write(f"{OUT}/cosines.png", lambda path: plot_cosines(cosines, domains, path))
# %% [markdown] test-text
# ## TEST
# Looked at once: baseline, ASA and the paper's direction at its own best setting, by real generation. The ablations
# push and read the next token on the same prefilled requests.

# %% test
from asa.evaluation.ablations import Steered, pushes, run_ablations

from functools import cache


test_domains = [request.domain for request in splits["test"]]


def parts_of(setting):
    """What a setting's ablations are made from."""
    shared = fit_readers(known_states[:, setting.layer], known_labels, known_domains, domains, swept["strength"], 0.0)
    return Steered(setting, readers[setting.layer], shared, directions[setting.direction, setting.layer])


@cache
def read_test():
    """TEST's reading and prefilled batches."""
    return read_prompts(engine, prompts["test"], trigger_id, "TEST prefill")


def run_baseline():
    """TEST's answers without steering."""
    return {"answers": answer_all(read_test()[1], profile.max_new_tokens, closed, "TEST baseline")}


def run_test():
    """The steered runs, and the ablations."""
    reading, batches = read_test()
    limit, baseline, result = profile.max_new_tokens, tested["baseline"], {}
    for run, steering in (("asa", adapter), ("asa_paper", paper_adapter)):
        if run == "asa_paper" and paper_setting == chosen:  # greedy: the same setting gives the same answers
            result |= {"asa_paper": result["asa"], "asa_paper_decisions": result["asa_decisions"]}
            continue
        answers, decisions = answer_steered(batches, reading.states, steering, baseline, limit, closed, f"TEST {run}")
        result |= {run: answers, f"{run}_decisions": [vars(decision) for decision in decisions]}
    ablated = run_ablations(batches, reading.states, parts_of(chosen), test_domains, trigger_id, SEED)
    result["ablations"] = {name: called.tolist() for name, called in ablated.items()}
    own = np.array([domains.index(domain) for domain in test_domains])
    result["p_own"] = readers[chosen.layer].p_tool(reading.states[:, chosen.layer], own).tolist()
    return result


baseline_key = key_of(run_key, profile.max_new_tokens, profile.words_limit)
tested = {"baseline": checkpoints.stage("baseline", baseline_key, run_baseline)["answers"]}
test_key = key_of(baseline_key, readers_key, vars(chosen), vars(paper_setting), swept)
tested |= checkpoints.stage("test", test_key, run_test)

# %% [markdown] proof-text
# ## Proof
# With `PROOF` only. TEST is answered again under simpler means (other prompts, forcing the trigger, LoRA) and under the
# method without each of its parts; doses and layers are drawn on VALID. `all` adds LoRA, other splits and other labels.

# %% proof-ladder
from asa.study.damage import Spared, forced_kl, kl_by_gate, next_token_kl
from asa.study.lora import LEARNING_RATE, RANK, call_target, train_lora
from asa.study.ladder import FORCED, Answers, run_ladder, run_prompts
from asa.method.steering import gates

import re

contenders = {kind: parts_of(best) for kind, best in best_by_direction.items()}
said = {chosen.direction: tested["asa"], NECESSITY: tested["asa_paper"]}
test_texts = [request.text for request in splits["test"]]
spared = np.array(labels["test"]) == 0  # the requests whose answers should be left alone


def kept_rung(name, ask):
    """A rung's answers, a checkpoint each: there are many, and each takes minutes."""
    key = key_of(test_key, settings_to_json(best_by_direction.values()), name)
    place = "-".join(re.findall(r"[\w+-]+", name))
    return checkpoints.stage(f"ladder/{place}", key, lambda: {"answers": ask()})["answers"]


def run_rungs():
    """TEST answers under the rivals and the ablations."""
    answers = Answers(lambda: read_test()[1], tested["baseline"], profile.max_new_tokens, closed)
    states = checkpoints.stage("states-test", run_key, lambda: vars(read_test()[0]))["states"]
    return run_ladder(answers, states, contenders, chosen.direction, said, kept_rung, test_domains, prompter, SEED)


def run_lora():
    """TEST answers of LoRA trained on CAL and TRAIN; VALID says only how it does."""
    asked, rows = prompts["cal"] + prompts["train"], splits["cal"] + splits["train"]
    limit, batches = profile.max_new_tokens, list(engine.batches(asked, "LoRA's requests"))
    in_words = answer_chosen(batches, fit_labels == 0, limit, closed, "answers in words", avoid=trigger_id)
    of_domain = {tool.domain: tool for tool in tools.values()}
    targets = {
        row: call_target(request.text, of_domain[request.domain], prompter) if request.label else in_words[row]
        for row, request in enumerate(rows)
        if request.label or not triggered(in_words[row])  # only the first token was kept from opening a call
    }
    taught = [asked[row] for row in targets]
    with train_lora(model, taught, list(targets.values()), SEED, LEARNING_RATE) as run:
        tuned_engine = Engine(model, prefix)
        valid = confusion(read_states(tuned_engine, prompts["valid"], trigger_id, "VALID, LoRA").called, valid_labels)
        said_by_lora = answer_all(
            list(tuned_engine.batches(prompts["test"], "TEST, LoRA")), limit, closed, "TEST, LoRA"
        )
    return vars(run) | {
        "rate": LEARNING_RATE, "valid_f1": valid["f1"], "valid_fpr": valid["fpr"],
        "left_out": len(rows) - len(taught), "answers": said_by_lora,
    }  # fmt: skip


def run_damage():
    """What became of TEST's answers in words on every rung; how far the next token's distribution moved."""
    reading, batches = read_test()
    in_words = np.array([not triggered(ids) for ids in tested["baseline"]])
    left_alone = Spared(batches, tested["baseline"], spared, spared & in_words)
    damages = {name: left_alone.damage(rung) for name, rung in rungs.items()}
    moved = {}
    for kind, parts in contenders.items():
        layer, states = parts.setting.layer, reading.states[:, parts.setting.layer]
        gate = gates(parts.readers.p_tool(states), parts.setting.tau)
        push = pushes(parts, reading.states, test_domains, SEED)["full"]
        moved[kind] = kl_by_gate(next_token_kl(batches, reading.states, layer, push)[spared], gate[spared])
        if kind == chosen.direction:
            moved[FORCED] = kl_by_gate(forced_kl(reading.log_odds, gate)[spared], gate[spared])
    return {"damage": damages, "kl": moved}


lora = None
if PROOF:
    rungs = {"baseline": tested["baseline"]} | checkpoints.stage(
        "proof-prompts", baseline_key, lambda: run_prompts(model, prompter, test_texts, tested["baseline"], closed)
    )
    if PROOF == "all":
        lora = checkpoints.stage("proof-lora", key_of(baseline_key, LEARNING_RATE), run_lora)
        rungs[f"LoRA, rank {RANK}"] = lora.pop("answers")
    rungs |= run_rungs()
    damaged = checkpoints.stage("proof-damage", key_of(test_key, rungs), run_damage)

# %% proof-curves
from asa.models.layout import final_norm
from asa.study.gates import compare_gates
from asa.study.curves import dose_curves, layer_curve
from asa.evaluation.validity import call_validity
from asa.data.scores import ratio
from asa.study.geometry import geometry

from functools import partial

drawn = sorted({steerable[0], steerable[len(steerable) // 2], steerable[-1], chosen.layer})[-3:]
readable = [reading.layer for reading in readings if not reading.constant]
others = [layer for layer in readable if layer != chosen.layer] or readable
second = max(others, key=lambda layer: readings[layer].auc)  # of a pair of layers, beside the chosen one


def fitting(batches, rows, layer, push):
    """Share of these rows' answers that are calls whose arguments fit; None without rows."""
    answered = answer_chosen(batches, rows, profile.max_new_tokens, closed, "calls", push=(layer, push))
    texts = [prompter.answer(ids) for ids in answered.values()]
    return ratio(call_validity(texts, tools, profile.markers)["arguments"]["hits"], len(texts))


def run_curves():
    """What the push does as it grows, at three layers, and at its best dose at every layer."""
    reading, batches = read_prompts(engine, prompts["valid"], trigger_id, "VALID prefill")
    given = (batches, reading.states, valid_labels)
    drawn_readers = {layer: readers[layer] for layer in drawn}
    all_readers = {layer: readers_at(layer) for layer in readable}
    return {
        "doses": dose_curves(*given, drawn_readers, directions, chosen.tau, trigger_id, partial(fitting, batches)),
        "layers": layer_curve(*given, all_readers, directions_at(readable), chosen.tau, trigger_id),
    }


def run_geometry():
    """Cosines of both directions with each other and with the trigger's row of the output matrix, by layer."""
    rows = model.get_output_embeddings().weight.detach()
    with torch.inference_mode():
        trigger_row = final_norm(model)((rows[trigger_id] - rows.mean(dim=0))[None])[0].float().cpu().numpy()
    return geometry(cal.states, labels["cal"], cal.called, cal.log_odds, cal_domains, domains, trigger_row)


def run_gates():
    """Other gates at the chosen layer, on VALID and by cross-validation."""
    states = np.concatenate([fit_states, read["valid"].states])
    judged = np.concatenate([fit_labels, valid_labels])
    belong = np.array(fit_domains + [request.domain for request in splits["valid"]])
    fitted = np.arange(len(judged)) < len(fit_labels)
    probe = (swept["strength"], swept["own"])
    others = (spare_states, known_labels[len(fit_labels) :], np.array(known_domains[len(fit_labels) :], dtype=str))
    return {"gates": compare_gates(states, judged, belong, fitted, chosen.layer, second, domains, *probe, SEED, others)}


if PROOF:
    curves = checkpoints.stage("proof-curves", key_of(readers_key, swept, drawn, DOSES, chosen.tau), run_curves)
    cosines_by_layer = checkpoints.stage("proof-geometry", run_key, run_geometry)
    compared = checkpoints.stage("proof-gates", key_of(readers_key, swept, chosen.layer, second), run_gates)["gates"]

# %% proof-robustness
from asa.study.robustness import run_robustness


def run_pool():
    """Other splits, domains left out, wrong labels, keyword labels, a wanted FPR, the original's protocol."""
    everyone = [request for rows in splits.values() for request in rows]
    asked = [ids for rows in prompts.values() for ids in rows]
    ends = np.cumsum([len(rows) for rows in splits.values()])
    rows = {name: np.arange(end - len(splits[name]), end) for name, end in zip(splits, ends, strict=True)}
    reading, batches = read_prompts(engine, asked, trigger_id, "all prefill")
    probe = (swept["strength"], swept["own"])
    layers = {kind: best.layer for kind, best in best_by_direction.items()}
    return run_robustness(everyone, rows, reading, batches, domains, layers, chosen.direction, probe, trigger_id, SEED)


robustness = None
if PROOF == "all":
    robustness_key = key_of(run_key, swept, vars(chosen), settings_to_json(best_by_direction.values()))
    robustness = checkpoints.stage("proof-robustness", robustness_key, run_pool)

# %% [markdown] results-text
# ## Results

# %% results
from asa.adapter import Decision
from asa.support.files import write_json
from asa.evaluation.errors import load_notes, write_errors
from asa.evaluation.metrics import gap_closed, mcnemar, trigger_metrics
from asa.evaluation.figures import plot_baseline_vs_asa, plot_dose_curves, plot_layer_curve, plot_reliability
from asa.study.sections import PROBE, ladder_row
from asa.method.original_files import write_quickstart_files
from asa.evaluation.report import write_report
from asa.study.sections import proof_sections
from asa.evaluation.tables import printed, rate_lines

runs = ("baseline", "asa_paper", "asa")
answers = {run: [prompter.answer(ids) for ids in tested[run]] for run in runs}
called = {run: np.array([triggered(ids) for ids in tested[run]]) for run in runs}
called["probe"] = np.array([decision["p_tool"] >= 0.5 for decision in tested["asa_decisions"]])
first = {run: np.array([ids[0] == trigger_id for ids in tested[run]]) for run in runs}
test_labels = np.array(labels["test"])
here = {domain: np.array(test_domains) == domain for domain in domains}
test = {run: trigger_metrics(called[run], test_labels, SEED) for run in ("baseline", "probe", "asa", "asa_paper")}
adapter.config["test"] = {
    run: {m: test[run][m] for m in ("precision", "recall", "f1", "fpr")} for run in ("baseline", "asa")
}
assets = f"{OUT}/asa_assets"
writer.write(f"{assets}/adapter.safetensors and config.json", lambda _: adapter.save(assets))
writer.write(
    f"{assets}/steering_vectors.npz, router.pkl, probes.pkl and scaler.pkl",
    lambda _: write_quickstart_files(assets, readers[chosen.layer], vectors),
)
results = {
    "profile": profile.name, "model": model_source, "benchmark": {"name": benchmark, "n_test": len(test_labels)},
    "layer": chosen.layer, "direction": chosen.direction, "alpha": adapter.alpha, "dose": chosen.dose,
    "tau": chosen.tau, "beta": chosen.beta, "test": test,
    "gap_closed": gap_closed(test["asa"]["f1"], test["baseline"]["f1"], test["probe"]["f1"]),
    "gap_closed_paper": gap_closed(test["asa_paper"]["f1"], test["baseline"]["f1"], test["probe"]["f1"]),
    "mcnemar": mcnemar(called["baseline"], called["asa"], test_labels),
    "mcnemar_paper": mcnemar(called["asa_paper"], called["asa"], test_labels),
    "first_token": {run: trigger_metrics(first[run], test_labels, SEED) for run in runs},
    "per_domain": {
        run: {d: trigger_metrics(called[run][here[d]], test_labels[here[d]], SEED) for d in domains}
        for run in ("baseline", "asa")
    },
    "validity": {run: call_validity(answers[run], tools, profile.markers) for run in runs},
    "ablations": {
        name: trigger_metrics(np.array(outcome), test_labels, SEED) for name, outcome in tested["ablations"].items()
    },
    "paper_setting": vars(paper_setting), "settings_scored": len(settings),
    "valid": {"f1": chosen.f1, "fpr": chosen.fpr}, "valid_generated": valid_generated,
    "layers": [vars(reading) | {"kind": kinds[reading.layer]} for reading in readings], "layer_plateau": plateau,
    "auc_plateau": readings[plateau].auc, "shuffled_plateau": readings[plateau].shuffled, "length_auc": swept["length"],
    "constant_note": constant_note, "domains": domains,
    "cosines": {kind: matrix.tolist() for kind, matrix in cosines.items()},
    "probe": {"C": swept["strength"], "own": swept["own"]}, "max_new_tokens": profile.max_new_tokens,
    "words_limit": profile.words_limit, "seed": SEED,
    "adapter_bytes": sum(array.nbytes for array in adapter.arrays.values()), "proof": None,
    "stage_seconds": {"loading": round(seconds_loading, 2)} | checkpoints.seconds,
}  # fmt: skip
if PROOF:
    rung_texts = {name: [prompter.answer(ids) for ids in rung] for name, rung in rungs.items()}
    rung_calls = {name: np.array([triggered(ids) for ids in rung]) for name, rung in rungs.items()}
    auc = {layer: readings[layer].auc for layer in readable}
    ladder = {
        name: ladder_row(
            rung_texts[name], rung_calls[name], called["baseline"],
            rung_calls.get(f"{name.split(':')[0]}: full", called["asa"]), test_labels, tools, profile.markers,
            damaged["damage"][name], SEED,
        )
        for name in rungs
    }  # fmt: skip
    ladder[PROBE] = {"scores": test["probe"]} | {
        column: mcnemar(called[run], called["probe"], test_labels)
        for column, run in (("mcnemar", "baseline"), ("against_full", "asa"))
    }
    results["proof"] = {
        "ladder": ladder, "direction": chosen.direction, "kl": damaged["kl"], "lora": lora, "auc": auc,
        "doses": curves["doses"],
        "layers": curves["layers"], "geometry": cosines_by_layer, "gates": compared, "robustness": robustness,
    }  # fmt: skip
    writer.write(f"{OUT}/dose_curves.png", lambda path: plot_dose_curves(curves["doses"], valid_baseline, path))
    writer.write(f"{OUT}/layer_curve.png", lambda path: plot_layer_curve(curves["layers"], auc, DIRECTIONS, path))
    if robustness:
        bins = robustness["target_fpr"]["reliability"]
        writer.write(f"{OUT}/reliability.png", lambda path: plot_reliability(bins, path))
results["seconds"] = round(sum(results["stage_seconds"].values()), 2)
writer.write(f"{OUT}/results.json", lambda path: write_json(path, results))
writer.write(f"{OUT}/report.md", lambda path: write_report(results, path, proof_sections(results["proof"])))
decisions = [Decision(**decision) for decision in tested["asa_decisions"]]
before_and_after = [called[run].tolist() for run in ("baseline", "asa")]
notes = load_notes("data/error_notes.csv")
writer.write(
    f"{OUT}/errors.md",
    lambda path: write_errors(splits["test"], *before_and_after, tested["p_own"], decisions, notes, path),
)
title = f"{profile.name}, {benchmark}: {len(test_labels)} TEST requests, 95 % intervals"
writer.write(f"{OUT}/baseline_vs_asa.png", lambda path: plot_baseline_vs_asa(test, title, path))
print(
    rate_lines(
        {run: test[run] for run in ("baseline", "asa_paper", "asa", "probe")},
        ("precision", "recall", "f1", "fpr", "accuracy"),
    )
)
print(
    f"gap closed {printed(results['gap_closed'], '.2f')} "
    f"(paper's direction {printed(results['gap_closed_paper'], '.2f')})"
    + ("" if results["gap_closed"] is not None else ": the probe is no better than the baseline, so there is no gap")
)
print(f"all stages {results['seconds']:.0f} s; see {OUT}/report.md, {OUT}/results.json, {assets}")

# %% [markdown] demo-text
# ## Demo
# The first TEST requests that the two runs treat differently, or simply the first.

# %% demo
from asa.evaluation.comparisons import Comparison, show_comparisons

order = sorted(range(len(test_labels)), key=lambda row: called["baseline"][row] == called["asa"][row])
shown = [
    Comparison(splits["test"][row].text, splits["test"][row].label, answers["baseline"][row], answers["asa"][row],
               decisions[row])
    for row in order[:DEMO_ROWS]
]  # fmt: skip
show_comparisons(shown, profile.trigger)

# %% [markdown] chat-text
# ## Your own requests
# With `CHAT = True` this cell asks for requests and answers each twice, without and with the adapter; an empty line
# ends it.

# %% chat
from asa.app.chat import answer_twice

if CHAT:
    while text := input("request (empty line ends): "):
        show_comparisons([answer_twice(model, prompter, adapter, text)], profile.trigger)

# %% [markdown] end-text
# ## Files that are missing
# Where the disk refused a file, the run went on without it; this cell then names it and says what to do.

# %% end
writer.finish()
