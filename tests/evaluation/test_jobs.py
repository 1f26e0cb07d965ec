"""Calls and jobs: every rule with right answers in other notations, near misses, and hostile text."""

import json
import os
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from asa.data.references import Reference, load_references, text_key
from asa.data.requests import Request, RequestsError, load_alpaca, load_requests
from asa.evaluation import programs
from asa.evaluation.calls import STEPS, call_steps
from asa.evaluation.expressions import evaluate
from asa.evaluation.jobs import does_job
from asa.evaluation.programs import run_python
from asa.tools import ToolCall, load_tools, render_call

DATA = Path(__file__).parents[2] / "data"
ALPACA = Path(__file__).parents[2] / "shared" / "alpaca" / "train-00000-of-00001.parquet"
TOOLS = load_tools(DATA / "tools.json")
MARKERS = ("<|tool_call_start|>", "<|tool_call_end|>")
REFERENCES = load_references(DATA / "references.jsonl")
OWN = load_requests(DATA / "requests.jsonl") + load_requests(DATA / "held_out.jsonl")


def job(name: str, asked: str, reference: Reference | None, run_code: bool = False, **arguments) -> bool | None:
    request = Request(asked, 1, TOOLS[name].domain, "here:1")
    return does_job(ToolCall(name, arguments), request, TOOLS[name], reference, run_code)


@pytest.mark.parametrize(
    ("expression", "number"),
    [
        ("0.175 * 2360", 413),
        ("17.5% of 2,360", 413),
        ("2^15 - 3^8", 26207),
        ("10 % 4", 2),
        ("25 % * 80 =", 20),
        ("-(3 \u00d7 4) \u00f7 2", -6),
        ("2x3", 6),
        ("4 + 5(6-3)", 19),
        ("$12.50 * 4", 50),
        ("\u221a16 + math.sqrt(9)", 7),
        ("5! + comb(4, 2)", 126),
        ("max(100,200)", 200),
        ("1,200 + 1,300", 2500),
        ("mean([1, 2, 6])", 3),
        ("2*pi", 6.283185307179586),
        ("round(86*22/10)", 189),
        ("round(1234567, -10**9)", 0),
    ],
)
def test_expressions_as_people_write_them(expression, number):
    assert evaluate(expression) == pytest.approx(number, rel=1e-12)


@pytest.mark.parametrize(
    "expression",
    ["9**9**9", "(9**9)**(9**9)", "pow(9, 9**9)", "factorial(10**9)", "'a' * 10**9", "[0] * 10**10", "max('b', 'a')",
     "[i for i in range(10**9)]", "x + 1", "__import__('os')", "().__class__", "(1).real", "lambda: 1", "x = 5",
     "1; 2", "1/0", "1e308 * 10", "(-8) ** (1/3)", "True", "'3'", "1 if 1 else 2", "2 > 1", "f'{1}'", "[1, 2][0]",
     "open('f')", "(" * 400, "-" * 400, "1+" * 300 + "1", "", "7x - 19 = 4x + 38", 7],
)  # fmt: skip
def test_expressions_that_give_no_number(expression):
    """Too large, names, attributes, and whatever else is no arithmetic; none raises, none takes long."""
    assert evaluate(expression) is None


@pytest.mark.parametrize(
    ("expression", "right"),
    [("87*183", True), ("87*183+1", False), ("87*182.99", False), ("2*3.14*10", True), ("2*3*10", False), ("x", False)],
)
def test_calculator_rounds_what_is_not_whole(expression, right):
    """A whole answer is exact, any other is met to a thousandth: 3.14 is near enough to pi."""
    assert job("calculator", "?", Reference("", answers=(15921, 62.8319)), expression=expression) is right


TEXT = 'How do you say "Don\u2019t run, please!" in Brazilian Portuguese?'
SPAN = Reference("", spans=((16, 34),), languages=("Brazilian Portuguese",))


@pytest.mark.parametrize(
    ("text", "language", "right"),
    [
        ("Don't run, please!", "Brazilian Portuguese", True),
        ('  "don\u2019t run  please."', "Portuguese", True),
        ("Don't run, please!", "portuguese (Brazilian)", True),
        ("Don't run, please!", "pt", True),
        ("Don't run, please!", "Spanish", False),
        ("Don't run, please!", "", False),
        ("Don't run", "Portuguese", False),
        ("please don't run", "Portuguese", False),
        ("N\u00e3o corra, por favor!", "Portuguese", False),
        (TEXT, "Portuguese", False),
        ("", "Portuguese", False),
    ],
)
def test_translator_wants_the_words_and_the_language(text, language, right):
    assert TEXT[16:34] == "Don\u2019t run, please!"
    assert job("translator", TEXT, SPAN, text=text, target_language=language) is right
    listed = Reference("", spans=((0, 28),), languages=("Malay",))
    given = {"text": "low battery, charging", "target_language": "malay"}
    assert job("translator", "'low battery' and 'charging' in Malay", listed, **given) is True
    any_language = replace(SPAN, languages=())
    assert job("translator", TEXT, any_language, text="don't run please", target_language="Greek") is True


@pytest.mark.parametrize(
    ("query", "right"),
    [
        ("official Reykjavik population", True),
        ("population Reykjavik", False),
        ("the population of Reykjavik, latest official figure please", True),
        ("Reykjavik", False),
        ("population of Oslo", False),
        ("population Reykjavik latest figure " + "more " * 20, False),
        ("", False),
    ],
)
def test_search_wants_half_of_the_content_words(query, right):
    """Of population, Reykjavik, latest, official and figure."""
    assert job("web_search", "the population of Reykjavik, latest official figure please", None, query=query) is right


@pytest.mark.parametrize(
    ("code", "right"),
    [
        ("print(sorted(['fig', 'plum', 'cherry']))", True),
        ("print(*sorted(['fig', 'plum', 'cherry']), sep='\\n')", True),
        ("sorted(['fig', 'plum', 'cherry'])", True),
        ("print(['fig', 'plum', 'cherry'])", False),
        ("print('cherry figs plum')", False),
        ("print('fig plum')", False),
        ("x = sorted(['fig', 'plum', 'cherry'])", False),
        ("print('cherry fig plum'); 1/0", False),
    ],
)
def test_python_prints_the_result(code, right):
    reference = Reference("", outputs=("cherry, fig, plum",))
    assert job("python_interpreter", "?", reference, run_code=True, code=code) is right
    assert job("python_interpreter", "?", reference, code=code) is None, "off unless asked for"


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    ["while True: pass", "import time; time.sleep(1000)", "x = [0] * 10**10", "while True: print('a' * 1000)",
     "import socket; print(socket.socket())", "import _socket; print(_socket.socket())",
     "import urllib.request as u; print(u.urlopen('http://192.0.2.1'))", "import os\nwhile True: os.fork()",
     "import os; print(os.system('id'))", "import subprocess; print(subprocess.run(['id']))",
     "import multiprocessing as m; p = m.Process(target=print); p.start(); print(p)",
     "import sys; print(sys.modules['ctypes'].CDLL(None))", "open('made', 'w')", "import os; os.remove('made')",
     "print(input())", "import sys; print(1); sys.exit(3)", "not python"],
)  # fmt: skip
@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory and of processes are Linux's")
@pytest.mark.shows(
    "Programs that loop, fork, fill the memory, open sockets or write files get nowhere where written code is "
    "scored by running it"
)
def test_hostile_programs_get_nowhere(code, monkeypatch):
    monkeypatch.setattr(programs, "SECONDS", 1)
    assert run_python(code) is None


def test_a_program_sees_nothing_of_ours(monkeypatch):
    """Neither the environment nor the folder."""
    monkeypatch.setenv("ASA_SECRET", "here")
    assert run_python("import os; print(os.environ.get('ASA_SECRET'), os.listdir())") == "None []\n"
    assert run_python("import numpy; print(numpy.arange(3))") == "[0 1 2]\n"
    assert run_python("print('\u00e9')") == "\u00e9\n"


def test_there_are_no_limits_on_windows(monkeypatch):
    monkeypatch.setattr(os, "name", "nt")
    with pytest.raises(programs.UserError, match="leave running code off"):
        run_python("print(1)")


def test_tools_of_others_are_not_judged():
    other = replace(TOOLS["calculator"], name="abacus")
    renamed = replace(TOOLS["calculator"], parameters={"type": "object", "properties": {"sum": {"type": "string"}}})
    request, reference = Request("2 + 2", 1, "math", "here:1"), Reference("", answers=(4,))
    right = ToolCall("calculator", {"expression": "2+2"})
    assert does_job(right, request, TOOLS["calculator"], reference) is True
    assert does_job(None, request, TOOLS["calculator"], reference) is False
    for tool, given in ((other, reference), (renamed, reference), (None, reference), (TOOLS["calculator"], None)):
        assert does_job(right, request, tool, given) is None


def call(name: str, **arguments) -> str:
    return f"{MARKERS[0]}[{render_call(name, arguments)}]{MARKERS[1]}"


@pytest.mark.parametrize("arguments", [{}, {"query": None}, {"query": 7}, {"query": ["a"]}])
def test_arguments_that_another_schema_lets_through_do_no_job(arguments):
    """Where it asks for none, or for no text."""
    assert job("web_search", "the population of Reykjavik", None, **arguments) is False


def test_steps_are_counted_over_all_that_need_a_tool():
    """Each answer gets one step further than the one before; the last request needs no tool."""
    requests = [Request("2 + 2", 1, "math", f"here:{line}") for line in range(1, 8)]
    requests.append(Request("why?", 0, "math", "here:8"))
    answers = [
        "Four.",
        f"{MARKERS[0]}[calculator(]{MARKERS[1]}",
        call("abacus", expression="2+2"),
        call("calculator", sum="2+2"),
        call("web_search", query="2 + 2"),
        call("calculator", expression="2+3"),
        call("calculator", expression="2+2") + call("web_search", query="2"),
        call("calculator", expression="2+2"),
    ]
    references = {text_key("2 + 2"): Reference("here:1", answers=(4,))}
    found = call_steps(requests, answers, TOOLS, MARKERS, references)
    assert [found[step]["hits"] for step in STEPS] == [6, 5, 4, 3, 2, 1]
    assert {found[step]["total"] for step in STEPS} == {7}
    assert found["job_by_domain"] == {"math": found["job"]}
    assert found["job"]["rate"] == 1 / 7 and found["job"]["interval"][0] < 1 / 7 < found["job"]["interval"][1]


def test_any_tool_of_the_domain_is_the_right_one():
    """Where several share it; the job is judged by the one that is called."""
    tools = TOOLS | {"adder": replace(TOOLS["calculator"], name="adder")}
    requests = [Request("2 + 2", 1, "math", "here:1")] * 3
    answers = [call(name, expression="2+2") for name in ("calculator", "adder")] + [call("web_search", query="2 + 2")]
    found = call_steps(requests, answers, tools, MARKERS, {text_key("2 + 2"): Reference("here:1", answers=(4,))})
    assert (found["right_tool"]["hits"], found["right_tool"]["total"]) == (2, 3)


def test_what_cannot_be_judged_is_in_no_total():
    requests = [
        Request("2 + 2", 1, "math", "a:1"),
        Request("sort b a", 1, "code", "a:2"),
        Request("now?", 1, "time", "a:3"),
    ]
    answers = [call("calculator", expression="2+2")] * 3
    found = call_steps(requests, answers, TOOLS, MARKERS, {text_key("sort b a"): Reference("a:2", outputs=("a b",))})
    assert [found[step]["total"] for step in STEPS] == [3, 3, 3, 3, 2, 0]
    assert found["job"]["rate"] is None and found["job"]["interval"] is None and found["job_by_domain"] == {}
    run = call_steps(
        requests, answers, TOOLS, MARKERS, {text_key("sort b a"): Reference("a:2", outputs=("a b",))}, True
    )
    assert run["job"] == {"rate": 0.0, "interval": run["job"]["interval"], "hits": 0, "total": 1}


def calls_made_from(reference: Reference, text: str) -> list[ToolCall]:
    if reference.answers:
        return [ToolCall("calculator", {"expression": repr(answer)}) for answer in reference.answers]
    if reference.outputs:
        return [ToolCall("python_interpreter", {"code": f"print({output!r})"}) for output in reference.outputs]
    wanted = [(text[start:end], language) for start, end in reference.spans for language in reference.languages]
    return [ToolCall("translator", {"text": span, "target_language": language}) for span, language in wanted]


@pytest.mark.slow
def test_references_belong_to_our_own_requests():
    """Each to one that needs the tool, and a call that is made from it is judged right."""
    asked = {request.source: request for request in OWN if request.label == 1}
    counts = dict.fromkeys(TOOLS, 0)
    for key, reference in REFERENCES.items():
        if reference.source.startswith("alpaca:"):
            continue
        request = asked[reference.source]
        assert text_key(request.text) == key, reference.source
        made = calls_made_from(reference, request.text)
        counts[made[0].name] += 1
        for one in made:
            assert TOOLS[one.name].domain == request.domain
            assert does_job(one, request, TOOLS[one.name], reference, run_code=True), reference.source
    assert counts == {"calculator": 110, "python_interpreter": 65, "web_search": 0, "translator": 110}


def test_alpaca_is_named_and_never_quoted():
    """An output would repeat its text: rows of Alpaca have numbers and places only."""
    of_alpaca = [one for one in REFERENCES.values() if one.source.startswith("alpaca:")]
    assert len(of_alpaca) > 450 and not any(one.outputs for one in of_alpaca)
    assert all(bool(one.answers) != bool(one.spans) for one in of_alpaca)


@pytest.mark.skipif(not ALPACA.is_file(), reason="Alpaca is not here")
def test_references_of_alpaca_belong_to_their_rows():
    """All rows that need the translator have one, and all but four that need the calculator."""
    asked = {request.source: request for request in load_alpaca(DATA / "annotations.csv", str(ALPACA)) if request.label}
    domains = []
    for key, reference in REFERENCES.items():
        if reference.source.startswith("alpaca:"):
            request = asked[reference.source]
            assert text_key(request.text) == key, reference.source
            domains.append(request.domain)
            for one in calls_made_from(reference, request.text):
                assert TOOLS[one.name].domain == request.domain
                assert does_job(one, request, TOOLS[one.name], reference), reference.source
    assert Counter(domains) == {"math": 286, "translation": 200}


@pytest.mark.slow
def test_the_readme_says_how_often_the_rules_misjudge():
    asked = {request.source: request for request in OWN}
    counts: Counter = Counter()
    for line in (Path(__file__).parent / "judged_calls.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        request, one = asked[row["source"]], ToolCall(row["tool"], row["arguments"])
        reference = REFERENCES.get(text_key(request.text))
        found = does_job(one, request, TOOLS[one.name], reference, run_code=True)
        counts[one.name, row["by"], row["right"], found] += 1
    readme = (DATA / "README.md").read_text("utf-8")
    for by, words in (("hand", "made up"), ("model", "the model's")):
        for name in TOOLS:
            cells = [counts[name, by, *each] for each in ((True, True), (True, False), (False, False), (False, True))]
            assert f"| {name}, {words} | {' | '.join(map(str, cells))} |" in readme
    assert f"{sum(1 for _ in (DATA / 'references.jsonl').open('rb'))} references" in readme


@pytest.mark.parametrize("line", ["[]", "{}", "{", '{"source": "a:1", "sha256_12": "0", "spans": [3]}'])
def test_a_broken_reference_is_named(tmp_path, line):
    (tmp_path / "r.jsonl").write_text('{"source": "a:1", "sha256_12": "0", "answers": [1]}\n' + line)
    with pytest.raises(RequestsError, match=r"r.jsonl line 2: not a reference"):
        load_references(tmp_path / "r.jsonl")
    with pytest.raises(RequestsError, match="cannot be read"):
        load_references(tmp_path / "none.jsonl")
