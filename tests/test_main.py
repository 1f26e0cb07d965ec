"""The command line: an adapter is scored from its folder alone, and what does not fit is refused in one sentence."""

import io
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import fit_adapter, make_lfm2

import asa.__main__
import asa.app.assistant
import asa.app.scoring
from asa import AdapterError
from asa.data.requests import load_requests
from asa.method.calibration import TARGETS, calibration
from asa.models.profiles import EMBEDDED, choose_profile
from asa.models.prompts import Prompter
from asa.models.saved_profiles import profile_beside, profile_from_json, profile_to_json
from asa.support.files import VERSION
from asa.tools.definitions import load_tools, tools_to_json

ROOT = Path(__file__).parents[1]
ROWS = [{"text": "What is 12 times 7?", "label": 1}, {"text": "Why is the sky blue?", "label": 0}]


@pytest.fixture
def config(tiny_tokenizer, tiny_folder, monkeypatch):
    """What `pipeline` adds to a config, for the tiny model; no hub, and no GPU."""
    monkeypatch.setattr(asa.app.assistant, "hub_answers", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    profile, _ = choose_profile(str(tiny_folder), hub=False, gpu=False)
    return config_of(profile, tiny_tokenizer)


def config_of(profile, tokenizer) -> dict:
    tools = load_tools(ROOT / "data" / "tools.json")
    key = Prompter(tokenizer, profile, tools).key()
    return {"profile": profile_to_json(profile), "tools": tools_to_json(tools), "prompt_hash": key}


@pytest.fixture
def score(tiny_lfm2, prompts, tmp_path, monkeypatch, capsys):
    """Run the command on an adapter with a config: (exit status, what it printed, what it printed as an error)."""

    def run(config: dict, *more: str, rows: list[dict] = ROWS, form=("--json",)) -> tuple[int, str, str]:
        adapter = fit_adapter(tiny_lfm2, prompts, ("math", "code", "search", "translation")).adapter
        adapter.config |= config
        adapter.save(tmp_path / "assets")
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        options = ["--assets", str(tmp_path / "assets"), "--requests", str(tmp_path / "rows.jsonl"), *form]
        monkeypatch.setattr(sys, "argv", ["asa", "evaluate", *options, *more])
        status = asa.__main__.main()
        return status, *capsys.readouterr()

    return run


def test_an_adapter_is_scored_on_the_prompt_it_was_fitted_with(score, config):
    status, out, _ = score(config)
    assert status == 0
    found = json.loads(out)
    assert (found["n"], found["left_out"]) == (2, 0)
    assert all(found[run]["tp"] + found[run]["fn"] == 1 for run in ("baseline", "probe", "asa"))
    assert "target_fpr" not in found  # an adapter without a calibration
    assert sum(row["count"] for row in found["reliability"]) == 2


def test_how_far_the_probability_is_to_be_taken_is_drawn(score, config, tmp_path):
    picture = tmp_path / "reliability.png"
    status, _, _ = score(config, form=("--reliability", str(picture)))
    assert status == 0 and picture.read_bytes().startswith(b"\x89PNG")
    for odd in (tmp_path, tmp_path / "missing" / "reliability.png"):
        status, _, error = score(config, form=("--reliability", str(odd)))
        said = f"error: --reliability: {odd} is no picture that can be written: give a file's name.\n"
        assert (status, error) == (1, said)


def test_a_calibrated_adapter_is_scored_at_wanted_shares_of_false_calls_too(score, config):
    """Of the one request that needs no tool, and of the one that does."""
    p_tool = np.linspace(0, 1, 200)
    _, out, _ = score(config | {"calibration": calibration(p_tool, (p_tool > 0.5).astype(int))})
    rows = json.loads(out)["target_fpr"]
    assert [row["wanted"] for row in rows] == list(TARGETS)
    assert all(row["fpr"]["total"] == row["recall"]["total"] == 1 for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("label", "missing", "measured", "why"),
    [
        (1, "fpr", "recall", "No request without need of a tool, so there is no FPR."),
        (0, "recall", "fpr", "No request with need of a tool, so there is no recall."),
    ],
)
def test_requests_of_one_label_only_leave_rates_out(score, config, label, missing, measured, why):
    """`null` in JSON, which holds no NaN; a dash in the printed lines; and a sentence, beside the JSON on stderr."""
    status, out, error = score(config, rows=[row | {"label": label} for row in ROWS])
    found = json.loads(out, parse_constant=pytest.fail)
    assert status == 0 and why in error.splitlines()
    status, out, _ = score(config, rows=[row | {"label": label} for row in ROWS], form=())
    *lines, last = out.splitlines()[:4]
    assert status == 0 and last == why
    for run, line in zip(("baseline", "probe", "asa"), lines, strict=True):
        assert found[run][missing] is found[run]["intervals"][missing] is None
        assert found[run][measured] is not None and found[run]["intervals"][measured] is not None
        assert line.startswith(run) and f"{missing} -" in line and f"{measured} {found[run][measured]:.3f}" in line
        for name in ("precision", "f1"):
            assert f"{name} -" in line if found[run][name] is None else f"{name} {found[run][name]:.3f}" in line
    for run in ("baseline", "asa"):
        rate = found[run]["validity"]["format"]
        assert (rate["rate"] is None) == (rate["total"] == 0)


@pytest.mark.slow
@pytest.mark.parametrize("other", ["hash", "description"])
def test_another_prompt_than_the_fitted_one_is_refused(score, config, other):
    """The template is the same; what the tools say is not."""
    if other == "hash":
        config["prompt_hash"] = "0" * 16
    else:
        config["tools"][0]["description"] += " Use it often."
    status, out, error = score(config)
    last = error.strip().splitlines()[-1]
    assert (status, out) == (1, "")
    assert last.startswith(f"error: {config['profile']['model_id']}: expected the prompt that the adapter was ")
    assert f"({config['prompt_hash']})" in last and last.endswith("or fit again.")


@pytest.mark.slow
def test_a_model_folder_may_move(score, config, tiny_folder, tmp_path):
    """With the adapter, which names it as seen from itself; or alone, and then `--model` says where it is."""
    beside, apart = tmp_path / "models" / "nano", tmp_path / "apart"
    shutil.copytree(tiny_folder, beside)
    kept = profile_beside(profile_from_json(config["profile"] | {"model_id": str(beside)}), f"{tmp_path}/assets")
    assert kept.model_id == "../models/nano"
    config["profile"] = profile_to_json(kept)
    status, before, _ = score(config)
    assert status == 0
    beside.rename(apart)
    status, out, error = score(config)
    assert (status, out) == (1, "")
    assert error.splitlines()[-1] == (
        f"error: the model folder {beside}, which the adapter was fitted on, is not there: give its place with --model."
    )
    assert score(config, "--model", f"{apart}/")[:2] == (0, before)


@pytest.mark.slow
def test_another_model_than_the_adapters_is_refused(score, config, tiny_folder, tiny_tokenizer, tmp_path):
    other = tmp_path / "other"
    make_lfm2(seed=1).save_pretrained(other)
    tiny_tokenizer.save_pretrained(other)
    status, out, error = score(config, "--model", str(other))
    assert (status, out) == (1, "")
    assert error.splitlines()[-1].startswith("error: the adapter was fitted on other weights (the embeddings differ): ")
    status, out, error = score(config, "--model", f"{tmp_path}/none")
    assert (status, out) == (1, "")
    assert (
        error.splitlines()[-1] == f"error: {tmp_path}/none cannot be loaded: there is no such folder; correct the path."
    )


def test_tools_that_are_none_are_refused(score, config, tmp_path):
    config["tools"][0]["name"] = "?"
    status, out, error = score(config)
    assert (status, out) == (1, "")
    assert error.startswith(f"error: {tmp_path}/assets/config.json, entry 1: ") and error.count("\n") == 1


SEEN = [  # the tools file's examples
    {"text": "what is 23% of 1840", "label": 1},
    {"text": "Who won the last Tour de France?", "label": 1},
]


@pytest.mark.slow
def test_what_the_prompt_s_examples_answer_is_not_scored(score, config, tiny_tokenizer):
    """It is left out aloud where the prompt shows examples, and scored where it does not."""
    plain = profile_from_json(config["profile"])
    showing = config_of(replace(plain, few_shot=True), tiny_tokenizer)
    status, out, error = score(showing, rows=[SEEN[0], *ROWS, SEEN[1]])
    assert status == 0
    assert (json.loads(out)["n"], json.loads(out)["left_out"]) == (2, 2)
    assert "left out, since the prompt's examples resemble them: rows.jsonl:1, rows.jsonl:4 (2 in all)\n" in error
    status, out, error = score(showing, rows=SEEN)
    assert (status, out) == (1, "")
    assert error.endswith("rows.jsonl: all requests resemble the prompt's examples: give others to score.\n")
    _, out, _ = score(config, rows=SEEN + ROWS)
    assert (json.loads(out)["n"], json.loads(out)["left_out"]) == (4, 0)


@pytest.mark.slow
def test_a_request_that_is_too_long_is_refused_before_the_model_reads_any(score, config, tiny_lfm2, monkeypatch):
    monkeypatch.setattr(asa.app.scoring, "read_prompts", lambda *_: pytest.fail("the model was asked"))
    takes = tiny_lfm2.config.max_position_embeddings
    status, out, error = score(config, rows=[*ROWS, {"text": "x " * takes, "label": 1}])
    assert (status, out) == (1, "")
    last = error.splitlines()[-1]
    assert re.match(rf"error: rows\.jsonl:3: \S+ takes {takes} tokens, and this request's prompt has \d{{6,}} ", last)
    assert "longer than the specified maximum" not in error


def test_tools_that_refer_elsewhere_are_refused_before_the_model_is_loaded(score, config, tmp_path, monkeypatch):
    """A stranger's adapter makes nobody be asked."""
    monkeypatch.setattr(asa.app.assistant, "load_model", None)
    config["tools"][1]["parameters"]["properties"]["code"] = {"$ref": "http://127.0.0.1:9/s.json"}
    status, out, error = score(config)
    assert (status, out) == (1, "")
    assert error.startswith(f"error: {tmp_path}/assets/config.json, entry 2 (python_interpreter): ")
    assert "'http://127.0.0.1:9/s.json'" in error and error.count("\n") == 1


@pytest.mark.slow
def test_paths_are_the_users(score, config, tmp_path, monkeypatch):
    """`~` is the home folder and blanks around a path are not part of it."""
    assert score(config)[0] == 0
    monkeypatch.setenv("HOME", str(tmp_path))
    assert asa.app.scoring.evaluate(" ~/assets", " ~/rows.jsonl\n")["n"] == 2
    assert asa.app.scoring.evaluate(tmp_path / "assets", Path("~/rows.jsonl"))["n"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"profile": {"added": 1}}, "the profile has the unknown field 'added'"),
        ({"profile": {"words_limit": float("inf")}}, "the profile's 'words_limit' is inf"),
        ({"profile": {"max_new_tokens": 0}}, "the profile's 'max_new_tokens' is 0"),
        ({"profile": {"trigger": ""}}, "the profile's 'trigger' is ''"),
        ({"profile": {"few_shot": "no"}}, "the profile's 'few_shot' is 'no'"),
        ({"profile": {"wheel": {"x": 1}}}, "the profile's 'wheel' is {'x': 1}"),
        ({"profile": None}, "'profile' is missing"),
        ({"tools": None}, "'tools' is missing"),
        ({"prompt_hash": None}, "'prompt_hash' is missing"),
    ],
)
def test_a_config_of_another_version_says_which_wrote_it(score, config, tmp_path, change, said):
    """In one sentence, before the model is loaded."""
    adapter_folder = tmp_path / "assets"
    score(config)
    path = adapter_folder / "config.json"
    written = json.loads(path.read_text())
    for name, value in change.items():
        if value is None:
            del written[name]
        elif isinstance(value, dict):
            written[name] |= value
    path.write_text(json.dumps(written | {"asa_version": "9.1"}))
    with pytest.raises(AdapterError) as refused:
        asa.app.scoring.evaluate(adapter_folder, tmp_path / "rows.jsonl")
    assert str(refused.value).startswith(f"{path} (written by asa 9.1, read by {VERSION}): {said}")
    assert str(refused.value).endswith("fit again with this version.")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("call_end", ""), ("chat_template", 3), ("turn_end", 3), ("tools_indent", 1.5), ("tools_indent", 10**6),
        ("tools_indent", -1), ("model_id", " "), ("max_new_tokens", 10**9), ("system", None), ("few_shot", 1),
    ],
)  # fmt: skip
def test_a_profile_out_of_range_is_blamed_on_the_config(score, config, tmp_path, field, value):
    score(config)
    path = tmp_path / "assets" / "config.json"
    written = json.loads(path.read_text())
    written["profile"][field] = value
    path.write_text(json.dumps(written))
    with pytest.raises(AdapterError, match=f"^{path}: the profile's '{field}' is "):
        asa.app.scoring.evaluate(path.parent, tmp_path / "rows.jsonl")


@pytest.fixture
def command(tiny_lfm2, prompts, config, tmp_path, monkeypatch, capsys):
    """Run `asa` on a saved adapter: (exit status, what it printed, what it printed as an error)."""
    adapter = fit_adapter(tiny_lfm2, prompts, ("math", "code", "search", "translation")).adapter
    adapter.config |= config | {"direction": "action"}
    adapter.save(tmp_path / "assets")

    def run(name: str, *more: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["asa", name, "--assets", str(tmp_path / "assets"), *more])
        return asa.__main__.main(), *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    "given",
    [
        ("ask", "Hi"), ("chat",), ("evaluate", "--requests", "x.jsonl"), ("push", "owner/name"),
        ("add", "tools.json", "--requests", "x.jsonl"),
    ],
    ids=lambda given: given[0],
)  # fmt: skip
def test_where_no_adapter_lies_every_command_says_so(given, tmp_path, monkeypatch, capsys):
    """In one sentence, and without asking the hub for one of that name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["asa", *given])
    assert asa.__main__.main() == 1
    sentence = "there is no outputs/asa_assets here: fit an adapter (asa fit), or name one, --assets FOLDER_OR_ID."
    assert capsys.readouterr().err == f"error: {sentence}\n"


@pytest.mark.slow
def test_requests_are_answered_by_line_or_as_json(command, monkeypatch):
    """From the command line, or else from standard input; a decision belongs to each."""
    status, out, _ = command("ask", "--tool-choice", "calculator", "What is 12 times 7?", "Hi")
    texts = out.splitlines()[::2]
    assert status == 0 and len(texts) == 2 and all(EMBEDDED.trigger in text or "calculator" in text for text in texts)
    assert all("not pushed" in line for line in out.splitlines()[1::2])
    monkeypatch.setattr(sys, "stdin", io.StringIO("What is 12 times 7?\n\nHi\n"))
    status, out, _ = command("ask", "--json", "--tool-choice", "calculator")
    found = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and [answer["text"] for answer in found] == texts
    assert [answer["messages"][0]["content"] for answer in found] == ["What is 12 times 7?", "Hi"]
    assert all(call["name"] == "calculator" for answer in found for call in answer["calls"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--web", "--no-steer"], "--no-steer and --tool-choice are the terminal's: leave them out with --web."),
        (["--web", "--port", "99999"], "the chat cannot be opened at 127.0.0.1:99999"),
        (["--functions", "nope"], "--functions nope: is no module:name, give one, such as my_module:functions."),
        (["--port", "7861"], "--host, --port and --share are the web chat's: add --web."),
    ],
)
def test_a_chat_takes_its_own_options_only(command, arguments, said):
    status, out, error = command("chat", *arguments)
    assert status == 1 and out == "" and said in error


def test_requests_are_checked_and_labelled(monkeypatch, capsys, tmp_path):
    """By hand where there is no adapter; what is labelled can be checked, also by a program."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "questions.txt").write_text("What is 12 times 7?\nWhy do we count in tens?\n", "utf-8")
    typed = iter(["1 math", "0 math"])
    monkeypatch.setattr("builtins.input", lambda _prompt: next(typed))
    monkeypatch.setattr(sys, "argv", ["asa", "label", "questions.txt"])
    assert (
        asa.__main__.main() == 0 and "2 labelled, 0 left; questions.labelled.jsonl holds 2." in capsys.readouterr().out
    )
    tools = str(ROOT / "data" / "tools.json")
    monkeypatch.setattr(sys, "argv", ["asa", "check", "questions.labelled.jsonl", "--tools", tools, "--json"])
    assert asa.__main__.main() == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 2 and [finding["kind"] for finding in found["findings"]] == ["too few", "too few"]
    monkeypatch.setattr(sys, "argv", ["asa", "check", "questions.labelled.jsonl"])
    assert asa.__main__.main() == 0 and capsys.readouterr().out.endswith("2 requests, to fix: 2\n")


@pytest.mark.slow
def test_a_tool_is_added(command, tmp_path):
    """By its labelled requests and the project's own; the new adapter lies elsewhere, and says what is to be done."""
    own = ROOT / "docs" / "own_tools"
    requests = tmp_path / "weather.csv"
    requests.write_text(
        "".join(line for line in (own / "requests.csv").open() if line.startswith("text,") or "weather" in line)
    )
    more = tmp_path / "weather.json"
    more.write_text(
        json.dumps([tool for tool in json.loads((own / "tools.json").read_text()) if tool["name"] == "weather"])
    )
    given = (str(more), "--requests", str(requests), "--out", str(tmp_path / "five"))
    status, out, error = command("add", *given, "--known", str(ROOT / "data" / "held_out.jsonl"))
    assert status == 0 and out.startswith(
        f"{tmp_path / 'five'}: math, code, search, translation, weather. Test it: asa ev"
    ), error
    assert asa.adapter.ASAAdapter.from_pretrained(tmp_path / "five").domains[-1] == "weather"
    status, _, error = command("add", *given, "--known", str(requests))
    assert status == 1 and "unknown domain 'weather'" in error


@pytest.mark.slow
def test_requests_are_labelled_with_an_adapters_proposals(command, monkeypatch, tmp_path):
    (tmp_path / "questions.txt").write_text("What is 12 times 7?\n", "utf-8")
    monkeypatch.setattr("builtins.input", lambda _prompt: "")
    out = tmp_path / "out.jsonl"
    status, said, _ = command("label", str(tmp_path / "questions.txt"), "--out", str(out))
    assert status == 0 and "p(tool)" in said and len(load_requests(out, ["math", "code", "search", "translation"])) == 1


@pytest.mark.slow
def test_a_chat_is_opened_in_the_browser(command, monkeypatch):
    """On this machine's own address, with the functions that are named, unless more is asked for."""
    web, opened = pytest.importorskip("asa.app.web"), []
    monkeypatch.setattr(web, "serve", lambda assistant, *rest: opened.append((type(assistant).__name__, *rest)))
    assert (
        command("chat", "--web")[0] == 0
        and command("chat", "--web", "--port", "7861", "--functions", "math:sin")[0] == 0
    )
    assert opened[0] == ("Assistant", None, "127.0.0.1", None, False)
    assert opened[1][1].keys() == {"sin"} and opened[1][2:] == ("127.0.0.1", 7861, False)


@pytest.mark.slow
def test_a_chat_is_typed(command, monkeypatch):
    """Until there is nothing more to read."""
    typed = iter(["Hi"])

    def read(_prompt):
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    status, out, _ = command("chat", "--no-steer")
    assert status == 0 and out.startswith("An empty line ends the chat") and out.rstrip().endswith(" s]")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ask", "--tool-choice", "add", "Hi"), "error: tool choice 'add': use auto, required, none, or one of "),
        (("ask", "--functions", "no_such:f", "Hi"), "error: --functions no_such:f: cannot be imported "),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(command, arguments, said):
    status, out, error = command(*arguments)
    assert (status, out) == (1, "") and error.splitlines()[-1].startswith(said)


def test_fit_is_the_pipeline(monkeypatch, capsys):
    """With its own options and its own help."""
    monkeypatch.setattr(sys, "argv", ["asa", "fit", "--help"])
    with pytest.raises(SystemExit) as ended:
        asa.__main__.main()
    out = capsys.readouterr().out
    assert ended.value.code == 0 and "usage: asa fit" in out and "--prompt-style" in out
