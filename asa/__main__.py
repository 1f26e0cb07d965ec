"""Command line: fit an adapter, ask it, chat with it, score it, put it on the hub. `asa COMMAND --help` says how."""

from asa.support.environment import share_cores

share_cores()  # before torch is loaded

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from asa.adapter import ASAAdapter
from asa.app.adding import with_more_tools
from asa.app.asking import AUTO, AssistantError, Options
from asa.app.assistant import Assistant, load
from asa.app.labelling import Labels, label, open_requests, proposals
from asa.app.scoring import evaluate
from asa.app.terminal import chat, decision_line, functions_of, printable
from asa.data.checks import FEW, check_requests
from asa.data.requests import RequestsError, load_requests
from asa.evaluation.metrics import why_missing
from asa.evaluation.tables import rate_lines
from asa.support.files import UserError, shipped
from asa.support.processes import print_any_text
from asa.tools.definitions import domains_of, load_tools

ASSETS, MORE = "outputs/asa_assets", "outputs/more_tools"


def ask(given: argparse.Namespace) -> None:
    """Answer the requests of the command line, or else those that come line by line."""
    texts = given.text or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    functions, assistant, options = functions_of(given.functions), _loaded(given), _options(given)
    if functions is None:
        answers = assistant(texts, **options)
    else:
        answers = [assistant.run(text, functions, **options) for text in texts]
    for answer in answers:
        if given.json:
            print(json.dumps(answer.to_json(), ensure_ascii=False))
        else:
            print(f"{printable(answer.text)}\n  [{printable(decision_line(answer))}]")


def talk(given: argparse.Namespace) -> None:
    """Chat in the terminal or the browser."""
    functions = functions_of(given.functions)
    if given.web and (given.no_steer or given.tool_choice != AUTO):
        raise AssistantError("--no-steer and --tool-choice are the terminal's: leave them out with --web.")
    if not given.web and (given.host or given.port or given.share):
        raise AssistantError("--host, --port and --share are the web chat's: add --web.")
    if given.web:
        from asa.app.web import HOST, refuse_address, serve  # needs an extra

        host = given.host or HOST
        refuse_address(host, given.port)  # before the model is loaded
        serve(_loaded(given), functions, host, given.port, given.share)
    else:
        chat(_loaded(given), _options(given), _typed(), functions)


def _loaded(given: argparse.Namespace) -> Assistant:
    """The assistant of the adapter that is named, or of the one that lies here.

    Raises:
        AssistantError: None is named and none lies here; or as `load`.
    """
    if given.assets == ASSETS and not Path(ASSETS).exists():
        raise AssistantError(
            f"there is no {ASSETS} here: fit an adapter (asa fit), or name one, --assets FOLDER_OR_ID."
        )
    return load(given.assets, given.model)


def fit(arguments: list[str]) -> None:
    """Run the pipeline, whose options are its own."""
    sys.argv, script = ["asa fit", *arguments], shipped("pipeline.py")
    # not by runpy, which would name the script in its help
    exec(compile(Path(script).read_text("utf-8"), script, "exec"), {"__name__": "__main__", "__file__": script})


def add(given: argparse.Namespace) -> None:
    """Fit an adapter to further tools."""
    assistant, more = _loaded(given), load_tools(given.more)
    requests = load_requests(given.requests, domains_of(more))
    own = list(assistant.adapter.domains)
    try:
        known = load_requests(given.known or shipped("data/requests.jsonl"), own)
    except RequestsError as error:
        if given.known:
            raise
        raise AssistantError(f"give labelled requests of {', '.join(own)} too, --known FILE.") from error
    added = with_more_tools(assistant, more, requests, known)
    added.adapter.save(given.out)
    print(
        f"{given.out}: {', '.join(added.adapter.domains)}. Test it: asa evaluate --assets {given.out} --requests FILE"
    )


def push(given: argparse.Namespace) -> None:
    """Put an adapter on the hub."""
    print(ASAAdapter.from_pretrained(given.assets).push_to_hub(given.repo, given.private))


def score(given: argparse.Namespace) -> None:
    """Score an adapter on labelled requests."""
    result = evaluate(given.assets, given.requests, given.model)
    runs = {run: result[run] for run in ("baseline", "probe", "asa")}
    if given.json:
        print(json.dumps(result, indent=2, allow_nan=False))
        for sentence in why_missing(runs):
            print(sentence, file=sys.stderr)
    else:
        print(rate_lines(runs, ("precision", "recall", "f1", "fpr")))


def check(given: argparse.Namespace) -> None:
    """Say what to mend in labelled requests."""
    requests = load_requests(given.requests, _domains(given.tools) or None)
    found = check_requests(requests)
    if given.json:
        print(json.dumps({"n": len(requests), "findings": [vars(finding) for finding in found]}, ensure_ascii=False))
    else:
        for finding in found:
            print(f"{finding.kind}: {printable(finding.says)}")
        count = sum(finding.kind != FEW for finding in found)
        print(f"{len(requests)} requests, to mend: {count or 'nothing'}")


def mark(given: argparse.Namespace) -> None:
    """Ask for the labels of requests."""
    labels = Labels(given.out or Path(given.requests).with_suffix(".labelled.jsonl").name)
    requests = open_requests(given.requests, [row["text"] for row in labels.rows])
    domains, proposed = _domains(given.tools), {}
    if requests and (given.assets != ASSETS or Path(ASSETS).is_dir()):
        assistant = load(given.assets, given.model)
        own = list(assistant.adapter.domains)
        if not domains or set(domains) == set(own):
            domains, decided = own, proposals(assistant, requests)
            proposed = dict(zip((request.text for request in requests), decided, strict=True))
        else:
            print(f"The adapter knows {', '.join(own)}, not {', '.join(domains)}: it proposes nothing.")
    label(requests, proposed, domains, labels, _typed())


def _domains(tools: str) -> list[str]:
    """Those of a tools file; none where none is given."""
    return domains_of(load_tools(tools)) if tools else []


def _options(given: argparse.Namespace) -> Options:
    return {"steer": not given.no_steer, "tool_choice": given.tool_choice}


def _typed() -> Iterator[str]:
    """What is typed, until there is no more."""
    while True:
        try:
            yield input("> ")
        except EOFError:
            return


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="asa", description="Activation-steering adapters for tool calling.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    commands.add_parser("fit", help="fit an adapter: the pipeline", add_help=False)

    def command(name: str, run: Callable, says: str, example: str) -> argparse.ArgumentParser:
        more = commands.add_parser(name, help=says, description=f"{says.capitalize()}.", epilog=f"example: {example}")
        more.set_defaults(run=run)
        if run is not check:  # which needs no adapter
            more.add_argument("--assets", default=ASSETS, help=f"adapter folder or hub id, {ASSETS} by default")
        return more

    asks = command("ask", ask, "answer requests", 'asa ask "What is 17 * 23?"')
    asks.add_argument("text", nargs="*", help="a request each; without any, the lines of standard input")
    talks = command("chat", talk, "chat in the terminal or the browser", "asa chat --web")
    where = talks.add_mutually_exclusive_group()
    where.add_argument("--web", action="store_true", help="in the browser, without and with the adapter side by side")
    where.add_argument("--terminal", action="store_true", help="in the terminal, as without --web")
    talks.add_argument("--host", help="with --web: address to listen on; this machine's own by default")
    talks.add_argument("--port", type=int, help="with --web: its port; the first free one from 7860 by default")
    talks.add_argument("--share", action="store_true", help="with --web: a public link, through Gradio's servers")
    scores = command(
        "evaluate", score, "score an adapter on labelled requests", "asa evaluate --requests data/held_out.jsonl"
    )
    scores.add_argument("--requests", required=True, help="labelled requests, as asa fit takes them")
    adds = command("add", add, "fit an adapter to further tools", "asa add weather.json --requests weather.csv")
    adds.add_argument("more", metavar="TOOLS", help="the new tools, as asa fit takes them")
    adds.add_argument("--requests", required=True, help="their labelled requests; 16 of each label and tool are enough")
    adds.add_argument("--known", default="", help="labelled requests of the adapter's own tools; else the project's")
    adds.add_argument("--out", default=MORE, help=f"folder of the new adapter, {MORE} by default")
    checks = command(
        "check", check, "say what is wrong with labelled requests", "asa check requests.csv --tools tools.json"
    )
    marks = command("label", mark, "label requests, with what an adapter proposes", "asa label questions.txt")
    for part, kind in ((checks, "labelled requests"), (marks, "requests, or a text file with one per line")):
        part.add_argument("requests", help=f"{kind}, in a file as asa fit takes it")
        part.add_argument("--tools", default="", help="tools file, whose domains there are")
    marks.add_argument("--out", default="", help="JSON lines to add to; REQUESTS.labelled.jsonl here by default")
    pushes = command("push", push, "put an adapter on the hub, with a model card", "asa push owner/name --private")
    pushes.add_argument("repo", help="owner/name; it is made where there is none")
    pushes.add_argument("--private", action="store_true", help="make it private")
    for part in (asks, talks, scores, marks, adds):
        part.add_argument("--model", default="", help="model folder or hub id, in place of the one the adapter names")
    for part in (asks, talks):
        part.add_argument("--no-steer", action="store_true", help="the model alone, without the adapter")
        part.add_argument("--functions", default="", help="module:name of the functions to run, by the tools' names")
        part.add_argument("--tool-choice", default=AUTO, help="auto, required, none, or a tool's name")
    asks.add_argument("--json", action="store_true", help="print JSON, one line per answer")
    for part in (scores, checks):
        part.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main() -> int:
    """Run the command line; returns the exit status."""
    print_any_text()
    try:
        if sys.argv[1:2] == ["fit"]:
            fit(sys.argv[2:])
        else:
            given = _parser().parse_args()
            given.run(given)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def run() -> None:
    """The installed command `asa`."""
    sys.exit(main())


if __name__ == "__main__":
    run()
