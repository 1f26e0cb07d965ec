"""Publishing: a card that says what the adapter is, and the hub's real client against a hub on loopback."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from asa import ASAAdapter
from asa.adapter.model_card import model_card

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "outputs" / "asa_assets"


def test_the_card_says_what_the_adapter_is(tmp_path):
    """Base model, library and measures as the hub reads them; three lines to load it; the limits; no placeholder."""
    adapter = ASAAdapter.from_pretrained(COMMITTED)
    adapter.save_pretrained(tmp_path / "a", "owner/name")
    card = ModelCard.load(tmp_path / "a" / "README.md")
    assert card.data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct" and card.data.library_name == "liquid-asa"
    scores = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert scores == {name: round(value, 4) for name, value in adapter.config["test"]["asa"].items()}
    assert {result.dataset_type for result in card.data.eval_results} == {"tatsu-lab/alpaca"}
    for words in ("load('owner/name')", "## Limits", "CC BY-NC 4.0", "calculator (", "| baseline | 0.549 |"):
        assert words in card.text
    assert "{" not in card.text
    assert ASAAdapter.from_pretrained(tmp_path / "a").config == adapter.config | {"format": 1}


def test_an_adapter_that_was_not_measured_says_so():
    """And one fitted on a folder names no base model of the hub."""
    config = {"layer": 3, "domains": ["a"], "model_id": "./nano", "benchmark": "own"}
    card = model_card(config, "here")
    method, ours = "arXiv 2602.04935 v1/v2", ", with every domain's probe weighed by the router"
    assert f"{method}." in card.text and f"{method}{ours}." in model_card(config | {"weighs_probes": True}, "here").text
    quick = model_card(config | {"benchmark": "alpaca, quick look"}, "here")
    assert "CC BY-NC 4.0" in quick.text
    scores = {"asa": {"f1": 0.9}}
    quick = model_card(config | {"benchmark": "alpaca, quick look", "test": scores}, "here")
    assert "need of a tool, quick look)" in quick.text and quick.data.eval_results is None
    example = {"request": 'Translate "good day"', "arguments": {}}
    odd = model_card(config | {"tools": [{"name": "t", "description": "", "examples": [example]}]}, "o\\d").text
    ast.parse(odd.partition("```python\n")[2].partition("```")[0])
    assert "It was not measured." in card.text and card.data.base_model is None and card.data.eval_results is None


CHILD = """
import base64, hashlib, http.server, json, os, sys, threading

FILES, ASKED = {}, []

class Hub(http.server.BaseHTTPRequestHandler):
    def answer(self, status, content=b"", **headers):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def as_json(self, value):
        self.answer(200, json.dumps(value).encode(), Content_Type="application/json")

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        ASKED.append((self.path, self.headers.get("Authorization")))
        if self.headers.get("Authorization") == "Bearer wrong":
            return self.answer(403, b'{"error": "no"}', Content_Type="application/json")
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            ASKED[-1] += (asked.get("visibility") or asked.get("private"),)
            return self.as_json({"url": f"{os.environ['HF_ENDPOINT']}/owner/name"})
        if "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
            return self.as_json({"files": files})
        if "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    FILES[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            page = f"{os.environ['HF_ENDPOINT']}/owner/name/commit/{SHA}"
            return self.as_json({"commitUrl": page, "commitOid": SHA})
        self.as_json({"errors": [], "warnings": []})

    def do_GET(self):
        ASKED.append((self.path, self.headers.get("Authorization")))
        if "/resolve/" in self.path:
            content = FILES[self.path.rpartition("/")[2]]
            return self.answer(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=SHA)
        if "/tree/" in self.path:
            sizes = {name: len(content) for name, content in FILES.items()}
            return self.as_json([{"type": "file", "path": name, "size": sizes[name], "oid": SHA} for name in FILES])
        if self.path.startswith("/api/models/owner/name"):
            siblings = [{"rfilename": name} for name in FILES]
            known = {"_id": "1", "id": "owner/name", "modelId": "owner/name"}
            return self.as_json(known | {"sha": SHA, "siblings": siblings})
        self.answer(404)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass

SHA = "a" * 40
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"

from asa import ASAAdapter, AdapterError

adapter = ASAAdapter.from_pretrained(sys.argv[1])
page = adapter.push_to_hub("owner/name", private=True, token="mine")
said = {"page": page.removeprefix(os.environ["HF_ENDPOINT"]), "files": sorted(FILES)}
again = ASAAdapter.from_pretrained("owner/name", revision="v2", token="yours", cache_dir=sys.argv[2])
equal = [(again.arrays[name] == array).all() for name, array in adapter.arrays.items()]
said["same"] = again.config == adapter.config and bool(all(equal))
said["asked"] = ASKED[:]
try:
    adapter.push_to_hub("owner/name", token="wrong")
except AdapterError as error:
    said["refused"] = str(error)
server.shutdown()
server.server_close()
kept = ASAAdapter.from_pretrained("owner/name", revision=SHA, cache_dir=sys.argv[2], local_files_only=True)
said["offline"] = kept.layer
print(json.dumps(said))
"""


@pytest.mark.slow
def test_there_and_back(tmp_path):
    """A private repository is made, three files come to lie there, and a revision, a token and a cache are heeded."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(COMMITTED), str(tmp_path / "cache")],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["page"] == "/owner/name" and said["same"]
    assert said["files"] == ["README.md", "adapter.safetensors", "config.json"]
    (made,) = [asked for asked in said["asked"] if asked[0] == "/api/repos/create"]
    assert made[1:] in (["Bearer mine", "private"], ["Bearer mine", True])  # as versions of the client say it
    read = [asked for asked in said["asked"] if "/revision/v2" in asked[0] or "/resolve/" in asked[0]]
    assert {asked[1] for asked in read} == {"Bearer yours"} and any("/revision/v2" in asked[0] for asked in read)
    assert said["refused"].startswith("owner/name cannot be pushed: the hub does not let you write there")
    assert said["offline"] == json.loads((COMMITTED / "config.json").read_text("utf-8"))["layer"]
