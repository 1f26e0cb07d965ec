"""The hub's errors: no hub, not allowed and not there are told apart, however deep they are wrapped.

A local server plays the hub. Where the hub is looked for is settled at import, so that one child process asks it all.
"""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from asa.support.hub import hub_sentence

pytestmark = pytest.mark.slow

CHILD = """
import http.server, json, os, shutil, sys, threading, time

class Hub(http.server.BaseHTTPRequestHandler):
    status, code = 0, ""

    def do_GET(self):
        if self.status == 0:  # breaks off half way
            self.send_response(200)
            for header in ("ETag", "X-Repo-Commit"):
                self.send_header(header, "0" * 40)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"{" if self.command == "GET" else b"")
            return self.connection.close()
        self.send_response(self.status)
        if self.code:
            self.send_header("X-Error-Code", self.code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"

from dataclasses import replace
from asa.support.hub import hub_sentence
from asa.models.loading import load_model
from asa.models.profiles import EMBEDDED
from asa.data.requests import load_alpaca
from huggingface_hub import snapshot_download

time.sleep = lambda _: None  # between the hub library's tries
profile = replace(EMBEDDED, model_id="owner/name", wheel=None, revision="v2")

def adapter():
    try:
        snapshot_download("owner/name", revision="v2")
    except Exception as error:
        raise ValueError(hub_sentence("owner/name", error, "v2"))

said = {}

def ask(case):
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)  # what broke off left a part there
    said[case] = []
    for get in (lambda: load_model(profile, hub=True), adapter, lambda: load_alpaca(sys.argv[1])):
        try:
            get()
            said[case].append("nothing was raised")
        except Exception as error:
            said[case].append(str(error))

for status, code in json.loads(sys.argv[2]):
    Hub.status, Hub.code = status, code
    ask(f"{status} {code}".strip())
server.shutdown()
server.server_close()
ask("closed")
print(json.dumps(said))
"""
GATED = "the hub gives it to those who accept its terms; accept them on its page and log in with `hf auth login` or "
PRIVATE = "the hub has no such repository, or it is private; check the id, and if it is private log in with `hf auth "
ABSENT = "the hub has no such repository; check the id"
REASONS = {
    "401": PRIVATE,
    "401 RepoNotFound": PRIVATE,
    "401 GatedRepo": GATED,
    "403 GatedRepo": GATED,
    "403": "the hub does not let you read it; ask its owner for access and log in with `hf auth login` or set HF_TOKEN",
    "404": ABSENT,
    "404 RepoNotFound": ABSENT,
    "404 RevisionNotFound": "the hub has it, but no revision 'v2' of it; correct the revision",
    "405": "the hub does not give it (it answers 405); check HF_ENDPOINT",
    "429": "the hub is in trouble (it answers 429); try again later",
    "500": "the hub is in trouble (it answers 500); try again later",
    "503": "the hub is in trouble (it answers 503); try again later",
    "0": "the connection to the hub broke off; start again, what has arrived is kept",
    "closed": "the hub does not answer and it is not in the cache; go online",
}


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What loading a model, an adapter's download and Alpaca say, a list for every case."""
    folder = tmp_path_factory.mktemp("hub")
    (folder / "annotations.csv").write_text("row,sha256_12,domain,needs_tool\n")
    cases = [(int(case.split()[0]), "".join(case.split()[1:])) for case in REASONS if case != "closed"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_HOME": str(folder / "cache"), "no_proxy": "*", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", CHILD, str(folder / "annotations.csv"), json.dumps(cases)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", REASONS)
def test_what_the_hub_answers_is_told_apart(said, case):
    model, adapter, alpaca = said[case]
    assert model.startswith(f"owner/name cannot be loaded: {REASONS[case]}") and model.endswith(
        ", or give a model folder."
    )
    assert adapter.startswith(f"owner/name cannot be loaded: {REASONS[case]}") and "give a" not in adapter
    absent = case in ("404 RepoNotFound", "404 RevisionNotFound")
    if not absent:  # datasets does not say which, and Alpaca is asked for without a revision
        assert alpaca.startswith(f"tatsu-lab/alpaca cannot be loaded: {REASONS[case]}")
    assert alpaca.endswith(", or give its parquet file.")
    assert not any("\n" in text for text in said[case])


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, "the hub does not know who you are; log in with `hf auth login` or set HF_TOKEN with a token that may"),
        (403, "the hub does not let you write there; check the id, or log in"),
        (405, "the hub does not take it (it answers 405)"),
        (503, "the hub is in trouble (it answers 503)"),
    ],
)
def test_what_keeps_a_push_away_is_told_apart(status, says):
    error = RuntimeError("no")
    error.response = SimpleNamespace(status_code=status)
    assert hub_sentence("owner/name", error, done="pushed").startswith(f"owner/name cannot be pushed: {says}")
    assert hub_sentence("a/b", TimeoutError("x"), done="pushed").endswith(
        "the connection to the hub broke off; start again."
    )


def test_errors_that_are_not_the_hubs_are_left_alone():
    for error in (KeyError("x"), OSError(28, "No space left on device"), RuntimeError("CUDA out of memory")):
        assert hub_sentence("owner/name", error) == ""
    outer = ValueError("outer")
    outer.__cause__ = outer.__context__ = outer  # a ring
    assert hub_sentence("owner/name", outer) == ""
