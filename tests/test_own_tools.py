"""Your own tools: the page's commands, one after the other, in an empty folder; and a fit from elsewhere."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import loaded_or_skipped

from asa.data.requests import load_requests
from asa.models.profiles import EMBEDDED
from asa.support.files import shipped
from asa.tools.definitions import load_tools

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "own_tools.md"
FILES = ROOT / "docs" / "own_tools"


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """`python` with these arguments in `folder`, where the project is not."""
    known = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=os.environ | known, capture_output=True, text=True
    )


def test_the_files_are_what_the_page_says():
    """Three tools, a function each, and 16 requests of each label per tool."""
    tools = load_tools(FILES / "tools.json")
    requests = load_requests(FILES / "requests.csv", list(tools))
    counts = {(tool, label): 0 for tool in tools for label in (0, 1)}
    for request in requests:
        counts[request.domain, request.label] += 1
    assert len(tools) == 3 and set(counts.values()) == {16}
    assert len({request.text for request in requests}) == len(requests)


def test_the_projects_files_are_found_from_anywhere(tmp_path, monkeypatch):
    """A user's own folder of that name is not taken for them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tools.json").write_text("[]")
    assert Path(shipped("data/tools.json")) == ROOT / "data" / "tools.json"
    assert Path(shipped("pipeline.py")) == ROOT / "pipeline.py"
    assert shipped("no/such.file") == "no/such.file"


@pytest.mark.slow
def test_the_page_from_an_empty_folder(tmp_path):
    """Its commands and its Python; what needs a tool is called, by the right one, and its function is run."""
    loaded_or_skipped(EMBEDDED)
    for file in FILES.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    text = PAGE.read_text("utf-8")
    said = []
    for line in "".join(re.findall(r"```bash\n(.*?)```", text, re.S)).splitlines():
        program, *arguments = shlex.split(line)
        assert program == "asa"
        done = run(tmp_path, "-m", "asa", *arguments)
        assert done.returncode == 0, done.stderr[-3000:]
        said.append(done.stdout)
    checked, fitted, asked, answered, added, timed = said
    assert checked.endswith("96 requests, to fix: nothing\n")  # few of each label and tool
    assert "outputs/asa_assets" in fitted and (tmp_path / "outputs" / "asa_assets" / "config.json").is_file()
    called, _, words, _ = asked.splitlines()
    assert called == '<tool_call>[database(item="bolts")]</tool_call>' and "tool_call" not in words
    assert "1200 bolts" in answered
    assert added.startswith("outputs/four_tools: weather, calendar, database, timer.")
    assert timed.startswith("<tool_call>[timer(minutes=10)]</tool_call>")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    done = run(tmp_path, "-c", code)
    assert done.returncode == 0 and "1200 bolts" in done.stdout, done.stderr[-3000:]
