"""The web chat, in a real browser: typing, clicks, a phone's width, hostile text, and no address but its own."""

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
from conftest import tiny_assistant

from asa.app.asking import AssistantError
from asa.app.assistant import Assistant
from asa.engine.decoding import Decoder
from asa.tools.definitions import load_tools

pytest.importorskip("gradio")
webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from asa.app.web import examples, serve

BROWSER, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
if not (BROWSER and DRIVER) and not os.environ.get("CI"):
    pytest.skip("needs Chromium and its driver", allow_module_level=True)

pytestmark = pytest.mark.slow

TOOLS = load_tools("data/tools.json")
HOSTILE = "<img src=/nowhere.png onerror=\"document.title='obeyed'\"> <b>bold</b> ${document.title='obeyed'} {{this}}"
WORDS = re.compile("[A-Za-z]+")  # a browser changes control characters
TYPED = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))"


class Page:
    """A browser at a chat, and what a user does there."""

    def __init__(self, driver, address: str):
        self.driver, self.address = driver, address
        self.open()

    def open(self) -> None:
        self.driver.get(self.address)
        self.until(lambda: self.driver.find_elements(By.CSS_SELECTOR, "#request textarea"))

    def until(self, happened, limit: float = 180):
        end = time.monotonic() + limit
        while not (found := happened()):
            assert time.monotonic() < end, f"not within {limit} s; the page says: {self.text('body')[:2000]}"
            time.sleep(0.05)
        return found

    def find(self, selector: str):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return self.driver.execute_script("return document.querySelector(arguments[0]).innerText", selector)

    def said(self, side: str, kind: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map(place => place.textContent)"
        return self.driver.execute_script(script, f"#{side} .asa-{kind}")

    def click(self, text: str) -> None:
        self.driver.find_element(By.XPATH, f"//button[normalize-space()={json.dumps(text)}]").click()

    def ask(self, text: str, by_button: bool = False) -> None:
        """Type a request, send it, and wait for both answers."""
        before = len(self.said("asa", "user"))
        box = self.find("#request textarea")
        box.send_keys(text)
        self.find("#send").click() if by_button else box.send_keys(Keys.ENTER)
        self.until(lambda: len(self.said("asa", "user")) == len(self.said("baseline", "user")) == before + 1)
        self.until(lambda: not self.find("#stop").is_enabled())  # it is while answers are written

    def set(self, slider: str, value: str) -> None:
        field = self.find(f"#{slider} input[type=number]")
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(value, Keys.ENTER, Keys.TAB)


def slowly(steps, seconds: float):
    """A decoder's steps that take so long each."""

    def waiting(decoder):
        for step in steps(decoder):
            time.sleep(seconds)
            yield step

    return waiting


@pytest.fixture(scope="module")
def assistant(tiny_llama, tiny_tokenizer, prompts) -> Assistant:
    assistant = tiny_assistant(tiny_llama, tiny_tokenizer, prompts, model_id="owner/<i>model</i>")
    assistant.adapter.config["calibration"] = {
        "unneeded": [0.0, 1.0]
    }  # p_tool is spread evenly where no tool is needed
    return assistant


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    folder = str(tmp_path_factory.mktemp("downloads"))
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1100"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": folder})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.folder = Path(folder)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def server(assistant):
    functions = {name: lambda **arguments: HOSTILE for name in TOOLS}
    blocks = serve(assistant, functions, wait=False)
    yield blocks
    blocks.close()


@pytest.fixture
def page(server, driver) -> Page:
    return Page(driver, server.local_url)


def test_what_is_typed_is_answered_on_both_sides(page, assistant):
    """By Enter or by the button, turn by turn, as the assistant answers; the strip shows the last decision."""
    page.ask("What is 12 times 7?")
    alone, steered = assistant("What is 12 times 7?", steer=False), assistant("What is 12 times 7?")
    for side, answer in (("baseline", alone), ("asa", steered)):
        if not answer.calls and not answer.faults:
            assert WORDS.findall(page.said(side, "model")[-1]) == WORDS.findall(answer.text or "(nothing)")
    assert steered.decision.domain in page.text("#decision")
    assert f"p(tool) {steered.decision.p_tool:.3f}" in page.text("#decision")
    page.ask("And why is the sky blue?", by_button=True)
    assert page.said("asa", "user") == page.said("baseline", "user") and len(page.said("asa", "user")) == 2
    assert page.find("#request textarea").get_attribute("value") == ""
    page.click("New")
    page.until(lambda: not page.said("asa", "user") and not page.said("baseline", "user"))
    assert "decides about a request" in page.text("#decision")


def test_what_is_typed_while_an_answer_is_written_stays(page, monkeypatch):
    """The box is emptied at once, Enter sends nothing meanwhile, and nothing is lost."""
    monkeypatch.setattr(Decoder, "steps", slowly(Decoder.steps, 0.05))
    box = page.find("#request textarea")
    box.send_keys("One", Keys.ENTER, Keys.ENTER)  # asked once
    page.until(lambda: box.get_attribute("value") == "", 10)
    page.until(lambda: page.said("asa", "user") and not page.find("#send").is_enabled())
    box.send_keys("Two", Keys.ENTER)
    monkeypatch.undo()
    page.until(lambda: page.find("#send").is_enabled())
    assert box.get_attribute("value") == "Two" and page.said("asa", "user") == ["One"]
    box.send_keys(Keys.ENTER)
    page.until(lambda: page.said("asa", "user") == page.said("baseline", "user") == ["One", "Two"])
    page.until(lambda: page.find("#send").is_enabled())
    assert "..." not in page.said("asa", "model") and box.get_attribute("value") == ""


def test_switches_and_sliders_do_what_they_say(page):
    """A tau that nothing reaches leaves the answer alone; without steering there is no decision."""
    page.set("tau", "0.99")
    page.set("dose", "0.2")
    page.ask("Hi")
    sure = float(re.search(r"p\(tool\) ([\d.]+)", page.text("#decision"))[1])
    assert ("gate +0" in page.text("#decision")) == (0.01 < sure < 0.99)
    page.set("tau", "0.5")
    page.ask("Hi")
    assert re.search(r"gate [+-]1.*dose 0\.20", page.text("#decision"), re.S)
    page.set("wanted", "0.2")
    page.ask("Hi")
    sure = float(re.search(r"p\(tool\) ([\d.]+)", page.text("#decision"))[1])
    assert ("gate +1" if sure >= 0.8 else "gate -1") in page.text("#decision")
    assert len(page.driver.find_elements(By.CSS_SELECTOR, "#decision s")) == 1  # the one threshold
    page.open()  # the sides' conversations have parted
    page.find("input[type=checkbox]").click()  # steering
    page.ask("Hi")
    assert "decides about a request" in page.text("#decision")
    assert page.said("asa", "model")[-1] == page.said("baseline", "model")[-1] or page.said("asa", "tool")


def test_nothing_is_obeyed_and_no_other_address_is_asked(page, driver):
    """Neither a user's text, nor a model's, nor a tool's; the page loads nothing from elsewhere."""
    page.ask(HOSTILE)
    assert HOSTILE in page.said("asa", "user")[-1]
    assert driver.execute_script("return document.querySelectorAll('img[src*=nowhere], #asa b > b').length") == 0
    assert "owner/<i>model</i>" in page.text("body") and driver.title == "ASA chat"
    driver.execute_script(TYPED, page.find("#request textarea"), f"{HOSTILE} " * 400)  # longer than the model takes
    page.click("Send")
    page.until(lambda: "shorten the request" in page.text("#decision"))
    assert len(page.said("asa", "user")) == 1
    page.until(lambda: page.find("#request textarea").get_attribute("value").startswith(HOSTILE))  # to be mended
    asked = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"]
    assert len(sent) > 10 and all(url.startswith((page.address, "data:", "blob:")) for url in sent)
    assert not any("nowhere" in url for url in sent)


def test_an_example_can_be_clicked(page):
    """It is put where one types; every domain has one of each kind."""
    shown = examples(TOOLS)
    assert set(shown) == {tool.domain for tool in TOOLS.values()} and all(len(each) == 2 for each in shown.values())
    page.click(shown["math"][0])
    page.until(lambda: page.find("#request textarea").get_attribute("value") == shown["math"][0])


def test_a_conversation_is_copied_and_saved(page, driver):
    """As JSON that holds both sides."""
    page.ask("Hi")
    page.click("Copy")
    time.sleep(1)
    field = page.find("#request textarea")
    field.send_keys(Keys.CONTROL, "v")
    copied = page.until(lambda: field.get_attribute("value"), 10)
    page.click("Save")
    saved = page.until(lambda: [*driver.folder.glob("*.json")])
    assert json.loads(copied) == json.loads(saved[0].read_text("utf-8"))
    for side in ("baseline", "asa"):
        assert json.loads(copied)[side]["messages"][0] == {"role": "user", "content": "Hi"}


def test_an_answer_can_be_stopped(page, monkeypatch):
    """What was half said is gone, its request is back in the box, and the chat goes on, also with a second stop."""
    page.ask("Hi")
    before = page.said("baseline", "talk")
    box = page.find("#request textarea")
    with monkeypatch.context() as slow:
        slow.setattr(Decoder, "steps", slowly(Decoder.steps, 0.2))
        for asked in ("Tell me more", "Once more"):
            box.send_keys(Keys.CONTROL, "a")
            box.send_keys(asked, Keys.ENTER)
            page.until(lambda: len(page.said("asa", "user")) == 2)
            box.send_keys(Keys.ENTER)  # nothing is sent meanwhile
            page.click("Stop")
            page.until(lambda: page.said("baseline", "talk") == before)
            page.until(lambda asked=asked: box.get_attribute("value") == asked)  # may be changed
            page.until(lambda: not page.find("#stop").is_enabled())  # until then nothing else can be sent
    time.sleep(1)
    assert page.said("baseline", "talk") == before
    box.send_keys(Keys.CONTROL, "a")
    page.ask("Hi")
    box.send_keys("  ", Keys.ENTER)  # nothing is asked, nothing is lost
    time.sleep(1)
    assert page.said("asa", "user") == ["Hi", "Hi"]


def test_a_new_conversation_ends_an_answer(page, monkeypatch):
    """And what it would have said does not come back."""
    page.ask("Hi")
    with monkeypatch.context() as slow:
        slow.setattr(Decoder, "steps", slowly(Decoder.steps, 0.2))
        page.find("#request textarea").send_keys("Tell me more", Keys.ENTER)
        page.until(lambda: len(page.said("asa", "user")) == 2)
        page.click("New")
        page.until(lambda: not page.said("asa", "user") and not page.find("#stop").is_enabled())
    time.sleep(1)
    assert not page.said("asa", "user") and not page.said("baseline", "user")
    page.find("#request textarea").send_keys(Keys.CONTROL, "a")
    page.ask("Hi")
    assert page.said("asa", "user") == page.said("baseline", "user") == ["Hi"]


def test_an_answer_that_fails_unexpectedly_blocks_nothing(page, monkeypatch):
    """Its request is back in the box."""
    box, tried = page.find("#request textarea"), []

    def fail(decoder):
        tried.append(decoder)
        raise RuntimeError("a fault of ours")

    with monkeypatch.context() as broken:
        broken.setattr(Decoder, "steps", fail)
        box.send_keys("Hi", Keys.ENTER)
        page.until(lambda: tried)
        page.until(lambda: box.get_attribute("value") == "Hi" and page.find("#send").is_enabled())
    box.send_keys(Keys.CONTROL, "a")
    page.ask("Hi")
    assert page.said("asa", "user") == ["Hi"]


def test_it_fits_a_phone(page, driver):
    """One side below the other, nothing to scroll sideways, and the request can be typed."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        page.open()
        page.ask("Hi")
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 390
        left, right = (page.find(f"#{side}").rect for side in ("baseline", "asa"))
        assert right["y"] >= left["y"] + left["height"] and min(left["width"], right["width"]) > 300
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_nothing_is_counted_or_open_to_others(server, assistant):
    """No analytics, no public link, no file that can be asked for; a taken or impossible port is one sentence."""
    assert not server.analytics_enabled and not server.share and server.local_url.startswith("http://127.0.0.1:")
    assert not server.allowed_paths and all(fn.api_visibility == "private" for fn in server.fns.values() if fn.fn)
    for host, port in (("127.0.0.1", int(server.local_url.rstrip("/").rpartition(":")[2])), ("127.0.0.1", 99999)):
        with pytest.raises(
            AssistantError, match=rf"^the chat cannot be opened at {host}:{port} \(.*\): choose another"
        ):
            serve(assistant, host=host, port=port, wait=False)
    with pytest.raises(AssistantError, match=r"^the chat cannot be opened at 192\.0\.2\.1 \(.*\): choose another"):
        serve(assistant, host="192.0.2.1", wait=False)  # an address that is nobody's
