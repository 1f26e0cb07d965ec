"""Commands: what each command of the command line does with its options, which `asa.__main__` reads."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from asa.adapter import ASAAdapter
from asa.app import ASSETS
from asa.app.adding import with_more_tools
from asa.app.asking import AUTO, AssistantError, Options
from asa.app.assistant import Assistant, load
from asa.app.fitted import adapter_here
from asa.app.labelling import Labels, label, open_requests, proposals
from asa.app.scoring import evaluate
from asa.app.terminal import chat, decision_line, functions_of, printable
from asa.data.checks import FEW, check_requests
from asa.data.requests import RequestsError, load_requests
from asa.evaluation.metrics import why_missing
from asa.evaluation.tables import rate_lines
from asa.support.files import shipped
from asa.support.parameters import output_folder
from asa.tools.definitions import domains_of, load_tools


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
        AdapterError: None is named and none lies here; or as `load`.
    """
    return load(adapter_here(given.assets), given.model)


def add(given: argparse.Namespace) -> None:
    """Fit an adapter to further tools."""
    given.out = output_folder("--out", given.out, given.out)  # refused before the work
    assistant, more = _loaded(given), load_tools(given.more)
    requests = load_requests(given.requests, domains_of(more))
    own = list(assistant.adapter.domains)
    try:
        known = load_requests(given.known or shipped("data/requests.jsonl"), own)
    except RequestsError as error:
        if given.known:
            raise
        raise AssistantError(f"give labelled requests of {', '.join(own)} too, --known FILE.") from error
    added = with_more_tools(assistant, more, requests, known, given.out)
    added.adapter.save(given.out)
    print(
        f"{given.out}: {', '.join(added.adapter.domains)}. Test it: asa evaluate --assets {given.out} --requests FILE"
    )


def push(given: argparse.Namespace) -> None:
    """Put an adapter on the hub."""
    print(ASAAdapter.from_pretrained(adapter_here(given.assets)).push_to_hub(given.repo, given.private))


def score(given: argparse.Namespace) -> None:
    """Score an adapter on labelled requests."""
    picture = Path(given.reliability)
    if given.reliability and (picture.is_dir() or not picture.parent.is_dir()):
        raise AssistantError(f"--reliability: {picture} is no picture that can be written: give a file's name.")
    result = evaluate(adapter_here(given.assets), given.requests, given.model)
    runs = {run: result[run] for run in ("baseline", "probe", "asa")}
    if given.json:
        print(json.dumps(result, indent=2, allow_nan=False))
        for sentence in why_missing(runs):
            print(sentence, file=sys.stderr)
    else:
        print(rate_lines(runs, ("precision", "recall", "f1", "fpr")))
    if given.reliability:
        from asa.evaluation.figures import plot_reliability  # loads Matplotlib

        plot_reliability({Path(given.requests).stem: result["reliability"]}, picture)


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
        print(f"{len(requests)} requests, to fix: {count or 'nothing'}")


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


COMMANDS = {
    "ask": ask, "chat": talk, "evaluate": score, "add": add, "check": check, "label": mark, "push": push,
}  # fmt: skip
