# %% [markdown] title
# # ASA: steering a small language model's tool calls
#
# [![Open In
# Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/gyunggyung/Liquid-ASA/blob/main/ASA_LFM25_Pipeline.ipynb)
#
# Small models call tools when they should answer, and answer when they should call. Often the model *knows*: a linear
# probe on an inner layer reads "this needs a tool" far better than the model acts on it. The **Activation Steering
# Adapter** uses that. At one layer, once per answer, at the last prompt token, a router picks the tool domain, probes
# score the need, and a gate (+1, 0, -1) adds or subtracts a steering vector. No weights change.
#
# ![Baseline against ASA](https://raw.githubusercontent.com/gyunggyung/Liquid-ASA/main/outputs/baseline_vs_asa.png)
#
# **Run all** fits, tunes, tests and saves an adapter. On a GPU with the hub it takes
# `LiquidAI/LFM2.5-1.2B-Instruct` and Alpaca (never run by us: its weights were not available); elsewhere
# `SmolLM2-135M-Instruct`, three minutes on two CPU cores (with Alpaca ten). Interrupted? Run all again: finished stages
# are reused.

# %% [markdown] parameters-text
# ## Parameters
# - `PROFILE`: `auto`, `embedded`, `gemma3-270m`, `lfm2.5`, a hub id or a model folder.
# - `PROMPT_STYLE`, for LFM2 models: `liquid`, the tool list as Liquid documents it, or `original`, as the original
#   project asked.
# - `ALPACA`: a parquet file; empty takes it from the hub. `REQUESTS`, `TOOLS`: your own files (see the README).
# - `OUT`: the folder for all that a run writes.
# - `LAYERS`: layers to try steering at, such as `8,12`; empty lets the sweep choose.
# - `DEVICE_MAP`: `auto` spreads a model larger than one card over all cards.
# - `PROOF`: `steering` compares ASA with simpler methods and with parts of itself, and plots doses and layers; `all`
#   also trains LoRA and changes splits, domains, labels and prompts. On two CPU cores `all` takes two to three hours.
# - `QUICK`: a first look in little more than a minute, with 64 TEST requests and fewer settings, in the folder `quick`
#   of `OUT`. Its numbers are rough and say so.
# - `GRAMMAR`: ASA's calls are held to the tools' schemas, and the router says which tool. Without it the model writes
#   them as it likes.
# - `CHAT`: a chat in the last cell, without and with the adapter side by side.
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
GRAMMAR = True  # @param {type:"boolean"}
QUICK = False  # @param {type:"boolean"}
SEED = 0  # @param {type:"integer"}
DEMO_ROWS = 6  # @param {type:"integer"}
CHAT = False  # @param {type:"boolean"}

# %% package title=Package_and_data hide=true archive=asa,data

# %% errors mode=script
from asa.support.files import errors_in_one_sentence

errors_in_one_sentence()

# %% setup title=Setup hide=true
from asa.support.environment import check_environment, share_cores

share_cores()  # before torch is loaded
check_environment()  # installs only what is missing, never torch or NumPy

# %% asked title=What_the_form_asks hide=true
from asa.app.options import Options

asked = Options(
    profile=PROFILE, prompt_style=PROMPT_STYLE, alpaca=ALPACA, requests=REQUESTS, tools=TOOLS, out=OUT, layers=LAYERS,
    device_map=DEVICE_MAP, proof=PROOF, grammar=GRAMMAR, quick=QUICK, seed=SEED, demo_rows=DEMO_ROWS, chat=CHAT,
)  # fmt: skip

# %% command-line mode=script
from asa.support.environment import print_any_text
from asa.support.processes import quiet_unless_first

asked = asked.from_command_line()
quiet_unless_first()
print_any_text()

# %% options title=Check_the_parameters hide=true
options = asked.checked()
seed, mark = options.seed, options.mark

# %% [markdown] requests-text
# ## Requests and tools
# Labelled requests, dealt over CAL (vectors), TRAIN (readers, with CAL), VALID (every choice) and TEST (looked at
# once). What the balanced splits leave, and the hand-written requests where Alpaca is the benchmark, help to fit the
# readers (router and probes), unless they resemble a request of a split. What is among the tools' examples, or
# resembles one, is left out of all splits, since the prompt gives its answer away.

# %% requests
import torch

from asa.data.examples import deal_requests
from asa.data.requests import ALPACA as BENCHMARK, QUICK_LOOK, choose_requests, further_requests
from asa.data.splits import FULL, QUICK as QUICK_SHARES
from asa.evaluation.comparisons import show_samples
from asa.models.loading import hub_answers
from asa.models.profiles import choose_profile
from asa.support.files import shipped
from asa.support.processes import from_first
from asa.tools.definitions import domains_of, load_tools, names_in_words

hub = from_first(hub_answers())
gpu = torch.cuda.is_available()
profile, profile_why = from_first(choose_profile(options.profile, hub, gpu, options.prompt_style))
tools = load_tools(options.tools)
domains = domains_of(tools)
requests, benchmark, requests_why = choose_requests(options.requests, options.alpaca, hub, shipped("data"), domains)
others = further_requests(shipped("data"), domains) if benchmark == BENCHMARK else []
if mark:
    benchmark += QUICK_LOOK
    print(f"A {mark}.")
shares = QUICK_SHARES if options.quick else FULL
tools, dealt, left_out = deal_requests(requests, others, tools, profile.few_shot, seed, shares)
print(f"profile {profile.name} ({profile.model_id}): {profile_why}")
print(f"tools: {names_in_words(tools)}")
print(f"requests: {len(requests)} {benchmark} ({requests_why})")
if left_out:
    print(f"{left_out} left out, which are among the tools' examples or resemble one")
print(", ".join(f"{name.upper()} {len(rows)}" for name, rows in dealt.items()))
show_samples(dealt["train"])

# %% [markdown] model-text
# ## The model
# Loaded once. Every request becomes a prompt, and what all prompts share is computed once. Then: the end of one prompt
# as the model sees it, and how the unsteered model begins to answer.

# %% model
import time

from asa.data.splits import Split
from asa.engine.calling import CallWriter
from asa.engine.engine import Engine
from asa.engine.selfcheck import refuse_inexact
from asa.method.layers import layers_by_hand
from asa.models.answers import AnswerRules
from asa.models.fitting import fitting_prompts, shared_prefix
from asa.models.loading import load_model
from asa.models.prompts import Prompter

started = time.perf_counter()
model, tokenizer, model_source = load_model(profile, hub, options.device_map)
refuse_inexact(model, model_source)
seconds_loading = time.perf_counter() - started
layers_by_hand(options.layers, model.config.num_hidden_layers)  # refuses one that is not there before all else
prompter = Prompter(tokenizer, profile, tools)
rules = AnswerRules(prompter, model)
call_writer = CallWriter(model, prompter, rules) if options.grammar else None
splits = {name: Split(rows, fitting_prompts(prompter, model, rows)) for name, rows in dealt.items()}
prompts = [ids for split in splits.values() for ids in split.prompts]
engine = Engine(model, shared_prefix(prompts))
print(f"{model_source}: {model.config.num_hidden_layers} layers, {model.dtype}, {model.device}")
print(f"Loaded in {seconds_loading:.1f} s. {prompter.date_note}")
print(f"All prompts share {len(engine.prefix_ids)} tokens; the longest has {max(map(len, prompts))}.")

# %% today
from asa.engine.answering import answer_all

request = splits["valid"].requests[0]
batches = list(engine.batches(splits["valid"].prompts[:1], "one request"))
(said,) = answer_all(batches, 24, rules.ended, "its answer")  # 24 tokens show enough
print("…" + prompter.text(request.text)[-400:] + rules.text(said) + ("" if rules.whole(said) else "…"))
print(f"\nThis request {'needs a tool' if request.label else 'needs no tool'}.")

# %% checkpoints title=Where_results_are_kept hide=true
from asa.data.splits import requests_key
from asa.method.probes import READ_BY
from asa.models.fingerprint import weights_key
from asa.support.checkpoints import Checkpoints
from asa.support.claims import claim
from asa.support.files import key_of

out = options.out
claim(out)  # for this run alone
checkpoints = Checkpoints(f"{out}/checkpoints")
writer = checkpoints.writer
data_key = requests_key({name: rows for name, rows in dealt.items() if name != "spare"})
made_from = (model_source, weights_key(model), profile.name, str(model.dtype), model.device.type, prompter.key())
keys = {"run": key_of(*made_from, data_key, seed)}
spare = splits["spare"]
keys["readers"] = key_of(keys["run"], spare.prompts, spare.labels.tolist(), spare.domains, READ_BY)
keys["baseline"] = key_of(keys["run"], profile.max_new_tokens, profile.words_limit)

# %% [markdown] sweep-text
# ## Where the need can be read
# One prefill per request gives the state at the last prompt token behind every block, and whether the unsteered
# model would call. A linear probe per layer says how well the need for a tool can be read there; shuffled labels and
# the prompt's length alone are the controls.
#
# [[asa/method/layers.py: layer_probe]]

# %% sweep
from asa.engine.states import Prefilled, read_splits
from asa.method.layers import MOST_LAYERS, layers_to_steer
from asa.method.tuning import QUICK_LAYERS
from asa.evaluation.figures import plot_probe_sweep
from asa.method.recipe import Recipe, Sweep, sweep

prefilled = Prefilled(engine, splits["valid"].prompts, rules.trigger_id, "VALID states")
read = read_splits(engine, splits, prefilled, rules.trigger_id, checkpoints, keys["run"])
valid, test = read["valid"], splits["test"]
fit = read["cal"] + read["train"]
known = fit + read["spare"]  # what the readers learn from
sweep_key = key_of(keys["readers"], options.layers)
found = checkpoints.typed(Sweep, "sweep", sweep_key, lambda: sweep(fit, known, valid, domains, options.layers, seed))
layers = layers_to_steer(found.readings, options.layers, QUICK_LAYERS if options.quick else MOST_LAYERS)
print(found.in_words())
print(f"Steering is tried at layers {', '.join(map(str, layers))}.")
kinds = list(getattr(model.config, "layer_types", None) or ["full_attention"] * len(found.readings))
marked = {"plateau rule, L*": found.plateau}
writer.write(f"{out}/probe_sweep.png", plot_probe_sweep, found.readings, found.length, kinds, marked, mark)

# %% [markdown] tuning-text
# ## Tuning on VALID
# A steering vector is a direction in the residual stream: for `necessity`, the paper's, from requests that need no tool
# to those that do; for `action` from requests where the model answers in words to those where it calls.
#
# [[asa/method/directions.py: directions]]
#
# The gate asks how sure the probes are together; the push goes along the domain's vector:
#
# [[asa/method/steering.py: gate_and_push]]
#
# Every setting is scored by the model's next token after the push, never by the probe alone. The best has the highest
# F1 on VALID with no more false calls than without steering:
#
# [[asa/method/tuning.py: best_setting]]

# %% tuning
from asa.method.directions import NECESSITY
from asa.method.recipe import Tuned, tune
from asa.method.tuning import BETAS, DOSES, QUICK_BETAS, QUICK_DOSES, TAUS
from asa.models.facts import facts_of

assets = f"{out}/asa_assets"
facts = facts_of(model, model_source, prompter, assets) | {
    "seed": seed, "data_hash": data_key, "benchmark": benchmark, "look_ahead": True,
}  # fmt: skip
recipe = Recipe(read["cal"], known, domains, found.strength, found.own)
doses, betas = (QUICK_DOSES, QUICK_BETAS) if options.quick else (DOSES, BETAS)
tuning_key = key_of(keys["readers"], found.to_json(), layers, doses, betas, TAUS, facts["look_ahead"])
tuned = checkpoints.typed(
    Tuned, "tuning", tuning_key, lambda: tune(prefilled, valid, recipe, layers, doses, betas, rules, facts)
)
chosen, papers = tuned.best(), tuned.best(NECESSITY)
print(tuned.in_words())

# %% settings
from asa.evaluation.figures import plot_settings

writer.write(f"{out}/hp_sweep.png", plot_settings, tuned.settings, tuned.best_of_each, tuned.unsteered, mark)

# %% [markdown] cosines-text
# How alike are the domains' directions at the chosen layer? Near 1, one vector would do for all.

# %% cosines
from asa.evaluation.figures import plot_cosines

writer.write(f"{out}/cosines.png", plot_cosines, recipe.cosines(chosen.layer), domains, mark)

# %% [markdown] calibration-text
# ## How many false calls?
# Requests that the readers did not learn from say how high p(tool) must be for a wanted share of false calls:
# `adapter.with_target_fpr(0.05)`. What they say is saved with the adapter.

# %% calibration
from asa.adapter.decision import recall_of_threshold, threshold_of_share
from asa.method.calibration import TARGETS, calibration, held_back

keys["chosen"] = key_of(keys["readers"], found.to_json(), vars(chosen), vars(papers), facts["look_ahead"])
adapter = recipe.adapter(chosen, facts)
adapter.config["calibration"] = checkpoints.stage(
    "calibration", keys["chosen"], lambda: calibration(*held_back(recipe, valid, chosen.layer, seed))
)
for share in TARGETS:
    least = threshold_of_share(adapter.config, share)
    kept = recall_of_threshold(adapter.config, least)
    print(f"For {share:.0%} false calls the gate opens from p(tool) {least:.3f} on, so for {kept:.0%} of needed calls.")

# %% [markdown] tool-choice-text
# ## Which tool, and a call that fits
# After the decision to call, the call is written under a grammar of the tools' schemas, so that it always parses, fits
# and ends. The router says which tool: where it is sure enough, which VALID tells.
#
# [[asa/method/tool_choice.py: held_tools]]

# %% tool-choice
from asa.method.tool_choice import ROUTED, choose_sureness

keys["choice"] = key_of(keys["chosen"], options.grammar and facts["tools"])
tool_choice = {}
if call_writer:
    decided = adapter.push(torch.from_numpy(valid.states[:, chosen.layer]))[1]
    given = (valid.requests, decided, call_writer)
    tool_choice = checkpoints.stage(
        "tool-choice", keys["choice"], lambda: {"choice": ROUTED, "sure": choose_sureness(*given)}
    )  # fmt: skip
    adapter.config["tool_choice"] = tool_choice
    print(f"The router says which tool where its domain has a probability of {tool_choice['sure']} or more.")

# %% [markdown] test-text
# ## TEST
# Looked at once: baseline, ASA and the paper's direction at its own best setting, by real generation. The ablations
# push and read the next token on the same prefilled requests.

# %% test
from asa.data.references import load_references
from asa.evaluation.answered import answer_test
from asa.evaluation.collected import called_by, collect_results, made_with, run_of
from asa.evaluation.outputs import scores_in_words

adapters = {"asa": adapter, "asa_paper": adapter if papers == chosen else recipe.adapter(papers, facts)}
prefilled = Prefilled(engine, test.prompts, rules.trigger_id, "TEST prefill")
more = key_of(keys["choice"], tool_choice)
keys["test"] = key_of(keys["baseline"], more)
sure = tool_choice.get("sure", 0.0)
answered = answer_test(
    test, prefilled, recipe, chosen, adapters, rules, checkpoints, (keys["baseline"], more), seed, call_writer, sure
)
called = called_by(answered, rules)
made = made_with(model, requests_key(dealt), prompter.key(), options.asked())
run = run_of(profile, model_source, benchmark, len(test), made)
references = load_references(shipped("data/references.jsonl"))  # what right calls give
results = collect_results(
    answered, called, test, found, recipe, tuned, adapter, rules, tools, references, kinds, run, seed, tool_choice
)
print(scores_in_words(results.scores))

# %% [markdown] proof-text
# ## The study
# With `PROOF` only: TEST is answered again by simpler methods and by the method without each of its parts.

# %% study
from asa.study.run import Study

study = Study(
    engine=engine, prompter=prompter, rules=rules, read=read, test=test, found=found, recipe=recipe, tuned=tuned,
    answered=answered, prefilled=prefilled, layers=layers, checkpoints=checkpoints, keys=keys, seed=seed,
    call_writer=call_writer, sure=sure, references=references,
)  # fmt: skip
proof = study.run(options.proof)

# %% [markdown] results-text
# ## Results
# The adapter, its numbers and the report go to the output folder.

# %% results
from asa.evaluation.outputs import write_adapter, write_results
from asa.evaluation.tables import gap_in_words
from asa.study.figures import plot_proof
from asa.study.sections import proof_sections

results = results.finished(proof, {"loading": round(seconds_loading, 2)} | checkpoints.seconds)
write_adapter(adapter, results, recipe, chosen, assets, writer)
write_results(results, proof_sections(proof), test, answered, called, mark, out, writer)
plot_proof(proof, tuned.unsteered, out, writer)
print(gap_in_words(results.scores))
print(f"All stages: {results.seconds:.0f} s; see {out}/report.md, {out}/results.json and {assets}.")

# %% [markdown] demo-text
# ## Demo
# One request of every domain that steering fixed, one that it broke, then others. ✓ and ✗ say whether calling, or
# not calling, was right.

# %% demo
from asa.evaluation.comparisons import show_comparisons, telling_comparisons

shown = telling_comparisons(test, called, answered.answers, answered.decisions, rules.text, options.demo_rows)
show_comparisons(shown, profile.trigger)

# %% [markdown] try-text
# ## Try it
# Your own request, answered without and with the adapter. `assistant(text)` gives one answer, `assistant.run(text,
# functions)` also runs its calls. With `CHAT = True` the last cell opens a chat.

# %% try
from asa.app.assistant import Assistant

REQUEST = "What is 17 * 23?"  # @param {type:"string"}
assistant = Assistant(adapter, model, prompter)
show_comparisons([assistant.compare(REQUEST).row()], profile.trigger)

# %% end title=Files_that_could_not_be_written hide=true
writer.finish()  # names them, if there are any, and says what to do

# %% chat
if options.chat:
    from asa.app.web import serve

    serve(assistant, wait=False)
