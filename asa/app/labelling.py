"""Labelling: requests one at a time, with what a fitted adapter proposes, the least certain first.

Labels are written as they are given, so that nothing is lost, and what is labelled is not asked again. Keys are read a
line at a time.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from asa.adapter.decision import Decision
from asa.app.assistant import Assistant
from asa.app.terminal import printable
from asa.data.requests import Request, load_requests
from asa.data.rows import RequestsError, read_rows, refuse_half, text_in
from asa.engine.states import read_requests
from asa.support.files import write_atomic
from asa.support.parameters import output_folder

KEYS = "1: needs a tool, 0: needs none, 1 DOMAIN: the tool of another domain, s: skip, b: back, q: end"
PROPOSED = KEYS + ", Enter: as proposed"


@dataclass(frozen=True)
class Open:
    """A request without a label; `domain` is "" where its file gives none."""

    text: str
    domain: str
    source: str


def open_requests(path: str | Path, done: Iterable[str] = ()) -> list[Open]:
    """The requests of a file that have no label yet, each text once; `done` are texts that are labelled elsewhere.

    Args:
        path: As `rows.read_rows` takes it, or a text file of one request per line. `label` and `domain` may be missing.
        done: Texts to leave out.

    Raises:
        RequestsError: The file cannot be read, or a row has no text.
    """
    found, seen = [], set(done)
    for where, _, row in read_rows(path, needed=("text",)):
        text = text_in(row, where)
        refuse_half(row.get("domain"), where)
        if text not in seen and row.get("label") in (None, ""):
            found.append(Open(text, str(row.get("domain") or ""), where))
        seen.add(text)
    return found


def proposals(assistant: Assistant, requests: Sequence[Open]) -> list[Decision]:
    """What the adapter decides about requests `[N]`; nothing is answered.

    Raises:
        RequestsError: One is too long for the model.
    """
    asked = [Request(each.text, 0, "", each.source) for each in requests]
    states = read_requests(assistant.model, assistant.prompter, asked, "proposals").states
    return assistant.adapter.push(torch.from_numpy(states[:, assistant.adapter.layer]))[1]


class Labels:
    """The labelled requests of one file of JSON lines, written whenever they change.

    Args:
        path: The file, `.jsonl`; what stands in it stays.

    Raises:
        RequestsError: It is another kind of file, or holds something else.
        ParameterError: Its folder cannot be written.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if self.path.suffix.lower() != ".jsonl":
            raise RequestsError(f"{path}: labels are kept as JSON lines; give a file whose name ends in .jsonl.")
        if not self.path.absolute().parent.is_dir():
            raise RequestsError(f"{path}: there is no folder {self.path.parent}; make it, or give another file.")
        output_folder("--out", str(self.path.absolute().parent), ".")
        self.rows: list[dict[str, Any]] = []
        for where, _, row in read_rows(self.path) if self.path.exists() else ():
            refuse_half(json.dumps(row, ensure_ascii=False), where)
            self.rows.append(row)
        if self.rows:
            load_requests(self.path)  # refuses what is not labelled

    def add(self, text: str, label: int, domain: str) -> None:
        """Label a request."""
        self.rows.append({"text": text, "label": label, "domain": domain})
        self._write()

    def take_back(self) -> None:
        """Remove the last label."""
        self.rows.pop()
        self._write()

    def _write(self) -> None:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows)
        write_atomic(self.path, lambda scratch: scratch.write_text(lines, encoding="utf-8"))


def label(
    requests: Sequence[Open],
    proposed: Mapping[str, Decision],
    domains: Sequence[str],
    labels: Labels,
    lines: Iterable[str],
    say: Callable[[str], object] = print,
) -> None:
    """Ask for the label of each request, the least certain first, until all have one or the user ends.

    Args:
        requests: To be labelled.
        proposed: By text; without one a request comes in its file's order, and its label is not proposed.
        domains: That there are; empty where any may be given.
        labels: Takes them.
        lines: What the user types, see `PROPOSED`.
        say: Prints.
    """
    keys = PROPOSED if proposed else KEYS
    say(keys)
    asked = sorted(requests, key=lambda each: abs(proposed[each.text].p_tool - 0.5) if each.text in proposed else 0)
    place, given, typed = 0, list[int](), iter(lines)
    while place < len(asked):
        request = asked[place]
        decision = proposed.get(request.text)
        domain = request.domain or (decision.domain if decision else domains[0] if len(domains) == 1 else "")
        guess = "" if decision is None else f", p(tool) {decision.p_tool:.3f}: {int(decision.p_tool >= 0.5)}?"
        say(f"\n{place + 1} of {len(asked)}  {domain or '(no domain)'}{guess}\n{printable(request.text)}")
        key, _, other = next(typed, "q").strip().partition(" ")
        domain = other.strip() or domain
        if key == "" and decision is not None:
            key = str(int(decision.p_tool >= 0.5))
        if key == "q":
            break
        if key == "b":
            if given:
                place = given.pop()
                labels.take_back()
            else:
                say("nothing to take back.")
        elif key == "s":
            place += 1
        elif key not in ("0", "1"):
            say(f"{printable(key) or 'Enter'} is not a key here. {keys}")
        elif not domain or (domains and domain not in domains):
            say(f"which domain? {key} and one of {', '.join(domains)}" if domains else f"which domain? {key} DOMAIN")
        else:
            labels.add(request.text, int(key), domain)
            given.append(place)
            place += 1
    say(f"\n{len(given)} labelled, {len(requests) - len(given)} left; {labels.path} holds {len(labels.rows)}.")
