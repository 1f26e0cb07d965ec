"""Parameters: what is clear is converted, and all else is one sentence that names parameter and value.

Nothing here needs torch.
"""

import os
import stat
from pathlib import Path

import numpy as np
import pytest

from asa.models.profiles import given_profile
from asa.support.files import UserError
from asa.support.parameters import given_layers, given_path, one_of, output_folder, whole_number, yes_or_no

PROOFS = ("", "steering", "all")


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """The home folder, and an empty one to work in."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def sentence(call, *arguments) -> str:
    """The one sentence by which a call is refused."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message
    return message


@pytest.mark.parametrize(
    ("value", "number"),
    [(0, 0), ("0", 0), (" 6 ", 6), (3.0, 3), ("3.0", 3), ("1e3", 1000), (np.int64(7), 7), (np.float32(7), 7),
     (2**32 - 1, 2**32 - 1), (None, 5), ("", 5), ("  ", 5)],
)  # fmt: skip
def test_numbers(value, number):
    found = whole_number("SEED", value, 5)
    assert found == number and type(found) is int


@pytest.mark.parametrize(
    "value",
    [-1, "-1", 2**32, 1e99, 2.5, "2,5", "six", True, False, "True", float("nan"), "inf", "nan", [1], (1,), {}, b"6",
     1j],
)  # fmt: skip
def test_what_is_no_number_is_refused(value):
    expected = f"DEMO_ROWS is {value!r}: give a whole number from 0 to 4294967295."
    assert sentence(whole_number, "DEMO_ROWS", value, 0) == expected


def test_the_largest_seed_is_one_that_every_library_takes():
    np.random.RandomState(whole_number("SEED", 2**32 - 1, 0))
    with pytest.raises(ValueError):
        np.random.RandomState(2**32)


@pytest.mark.parametrize("value", [True, "True", " true ", "yes", "on", 1, 1.0, "1", np.True_])
def test_yes(value):
    assert yes_or_no("CHAT", value) is True


@pytest.mark.parametrize("value", [False, "False", "false", "no", "off", 0, 0.0, "0", "", None, np.False_])
def test_no(value):
    """Above all the text "False", which Python takes for true."""
    assert yes_or_no("CHAT", value) is False


@pytest.mark.parametrize("value", ["", " ", None])
def test_nothing_is_what_the_parameter_says_it_is(value):
    assert yes_or_no("GRAMMAR", value, empty=True) is True


@pytest.mark.parametrize("value", ["maybe", 2, -1, [], [True]])
def test_neither_yes_nor_no(value):
    assert sentence(yes_or_no, "CHAT", value) == f"CHAT is {value!r}: give True or False."


@pytest.mark.parametrize(
    ("value", "word"),
    [("all", "all"), ("All", "all"), (" STEERING ", "steering"), ("", ""), (None, ""), ("none", ""), ("None", "")],
)
def test_words(value, word):
    assert one_of("PROOF", value, PROOFS) == word


@pytest.mark.parametrize("value", ["everything", True, 1, ["all"], Path("some")])
def test_other_words_are_refused(value):
    said = sentence(one_of, "PROOF", value, PROOFS)
    assert said == f"PROOF is {value!r}: give steering or all, or leave it empty."


def test_where_nothing_is_no_choice_the_first_is_the_default():
    styles = ("liquid", "original")
    assert [one_of("PROMPT_STYLE", value, styles) for value in (None, "", "Original")] == [
        "liquid",
        "liquid",
        "original",
    ]
    assert sentence(one_of, "PROMPT_STYLE", "none", styles) == "PROMPT_STYLE is 'none': give liquid or original."


def test_paths(home):
    given = {
        "~/asa": f"{home}/asa", "~": f"{home}", " data/tools.json\n": "data/tools.json", Path("a") / "b": "a/b",
        Path("~/asa"): f"{home}/asa", "a~b": "a~b", "": "default", "  ": "default", None: "default",
    }  # fmt: skip
    assert {value: given_path("REQUESTS", value, "default") for value in given} == given
    assert given_path("REQUESTS", None) == ""
    for value in (3, True, ["a"], b"a"):
        assert sentence(given_path, "REQUESTS", value) == f"REQUESTS is {value!r}: give a text."
    said = sentence(given_path, "OUT", "~nobody-of-that-name/asa")
    assert said == "OUT is '~nobody-of-that-name/asa' and there is no such home folder: give another path."


def test_profiles(home):
    Path("folder").mkdir()
    given = {
        "auto": "auto", " Auto ": "auto", "LFM2.5": "lfm2.5", "": "auto", None: "auto", "owner/Name": "owner/Name",
        "~/Model": f"{home}/Model", Path("models/x"): "models/x", Path("folder"): "./folder", "./folder": "./folder",
        "nonesuch": "nonesuch",
    }  # fmt: skip
    assert {value: given_profile("PROFILE", value) for value in given} == given
    assert sentence(given_profile, "PROFILE", 3) == "PROFILE is 3: give a text."


@pytest.mark.parametrize(
    ("value", "layers"),
    [("8,12", "8,12"), (" 8 , 12 ", "8,12"), ("8 12", "8,12"), ("[8, 12]", "8,12"), ("8,12,", "8,12"), (8, "8"),
     (0, "0"), (8.0, "8"), ([8, 12], "8,12"), ((12, "8"), "12,8"), (range(2, 4), "2,3"), (np.array([3, 1]), "3,1"),
     ("8,8,08", "8"), ("", ""), ("[]", ""), ([], ""), ((), ""), (None, "")],
)  # fmt: skip
def test_layers(value, layers):
    assert given_layers("LAYERS", value) == layers


@pytest.mark.parametrize("value", ["eight", "8-12", "-1", -1, 2.5, [8, None], [[8]], True, b"8", {8: 1}, [-8], "8:12"])
def test_what_is_no_layer_is_refused(value):
    said = sentence(given_layers, "LAYERS", value)
    assert said.startswith(f"LAYERS is {value!r}: give layers, counted from 0, with commas between, such as 8,12")


@pytest.mark.parametrize(
    ("value", "folder"),
    [("", "outputs"), (None, "outputs"), (" new/deep ", "new/deep"), ("~/asa", "{home}/asa"), (Path("out"), "out")],
)
def test_an_output_folder_is_tried_out_and_nothing_of_that_stays(home, value, folder):
    assert output_folder("OUT", value, "outputs", ("checkpoints",)) == folder.format(home=home)
    assert list(Path.cwd().iterdir()) == [] == list(home.iterdir())


def test_an_output_folder_that_is_there_stays_as_it_is(home):
    Path("out/checkpoints").mkdir(parents=True)
    Path("out/kept").write_text("mine")
    assert output_folder("OUT", "out", "outputs", ("checkpoints", "assets")) == "out"
    assert sorted(str(path) for path in Path().rglob("*")) == ["out", "out/checkpoints", "out/kept"]


@pytest.mark.parametrize("value", ["file", "file/below/it", "link", "/proc/asa", "nul\0l", "x" * 300])
def test_what_cannot_be_an_output_folder_is_refused(home, value):
    """A file, a path below one, a dangling link, a file system without folders of ours, names that cannot be."""
    Path("file").write_text("mine")
    Path("link").symlink_to("nowhere/at/all")
    said = sentence(output_folder, "OUT", value, "outputs", ("checkpoints",))
    assert said.startswith(f"OUT: {value!r} is no folder that can be written (") and said.endswith(
        "): give another one."
    )
    assert Path("file").read_text() == "mine" and sorted(map(str, Path().iterdir())) == ["file", "link"]


def test_a_part_of_the_output_folder_is_tried_out_too(home):
    """The adapter comes last, after hours."""
    Path("out").mkdir()
    Path("out/asa_assets").write_text("mine")
    said = sentence(output_folder, "OUT", "out", "outputs", ("checkpoints", "asa_assets"))
    assert said.startswith("OUT: 'out/asa_assets' is no folder")
    assert [str(path) for path in Path("out").iterdir()] == ["out/asa_assets"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_the_right_to_write_is_refused(home):
    Path("out").mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
    assert "'out/checkpoints'" in sentence(output_folder, "OUT", "out/checkpoints", "outputs")


def test_only_the_first_process_tries_the_folder_out(home, monkeypatch):
    """Another would find a folder that the first is taking away again."""
    Path("file").write_text("mine")
    monkeypatch.setenv("RANK", "1")
    assert output_folder("OUT", "file", "outputs") == "file"
