"""The READMEs: tables in step with the committed results, words that these bear out, both languages alike."""

import itertools
import json
import re
from pathlib import Path

import pytest

from asa.app.options import ASKED
from asa.evaluation import readme
from asa.evaluation.ablations import whole

ROOT = Path(__file__).parents[1]
READMES = ("README.md", "README_KR.md")
PAGES = (
    *READMES,
    "CONTRIBUTING.md",
    "data/README.md",
    "docs/findings.md",
    "docs/models.md",
    "docs/own_tools.md",
    "docs/serving.md",
    "docs/t4.md",
)
TABLES = {
    "README.md": ["result", "rivals"],
    "README_KR.md": ["result", "rivals"],
    "docs/findings.md": ["ladder", "splits", "examples", "calls", "held-out", "blind", "targets"],
}
HISTORY = {  # numbers in docs/findings.md of which no file in outputs/ knows
    *("0.95",),  # of the gap, from which on it counted as closed
    *("0.926", "0.084", "0.801", "0.937", "0.075"),  # SmolLM2's first and second run
    *("0.949", "0.062", "0.940", "0.072"),  # SmolLM2's third and fourth run
    *("0.928", "0.091", "0.929", "0.084", "0.882", "0.131"),  # Gemma's second and third
    *("0.067", "0.920", "0.94", "0.06", "0.092"),  # the same on held_out.jsonl, and the aim for blind.jsonl
    *("0.885", "0.161"),  # SmolLM2's fourth run on blind.jsonl
    *("0.675", "0.624", "0.892", "0.586", "0.164", "0.899", "0.148"),  # the hand-written requests
}
FOLDERS = {"embedded": ROOT / "outputs", "gemma3-270m": ROOT / "outputs" / "gemma3-270m"}
RUNS = {name: json.loads((folder / "results.json").read_text(encoding="utf-8")) for name, folder in FOLDERS.items()}
RESULTS, GEMMA = RUNS.values()


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    """Paths are the repository's."""
    monkeypatch.chdir(ROOT)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def without_tables_and_code(text: str) -> str:
    return re.sub(r"<!-- table.*?<!-- /table -->|```.*?```|`[^`\n]+`", "", text, flags=re.DOTALL)


def code_blocks(text: str) -> list[str]:
    return re.findall(r"```.*?```", text, re.DOTALL)


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", text)


def test_the_tables_are_the_committed_results():
    assert not readme.out_of_step()
    for name, tables in TABLES.items():
        assert [block[2] for block in readme.BLOCK.finditer(text_of(name))] == tables


def test_a_table_out_of_step_is_named_and_mended(monkeypatch, tmp_path):
    """One digit is enough; the check changes nothing, and the command puts it right."""
    page = tmp_path / "page.md"
    right = text_of("README.md")
    wrong = right.replace("| 0.940 ", "| 0.941 ")
    page.write_text(wrong, encoding="utf-8")
    monkeypatch.setattr(readme, "FILES", {str(page): {}})
    monkeypatch.setattr("sys.argv", ["readme", "--check"])
    with pytest.raises(SystemExit, match=r"page\.md: the tables are not the committed results': run python -m"):
        readme.main()
    assert page.read_text(encoding="utf-8") == wrong != right
    monkeypatch.setattr("sys.argv", ["readme"])
    readme.main()
    assert page.read_text(encoding="utf-8") == right


@pytest.mark.parametrize("name", TABLES)
def test_no_rate_stands_outside_the_tables(name):
    """But for the history, whose numbers no committed file holds."""
    expected = set() if name in READMES else HISTORY
    assert set(re.findall(r"(?<![\d.])[01]?\.\d{2,}(?!\d)", without_tables_and_code(text_of(name)))) == expected


def test_the_words_are_borne_out():
    """What the READMEs' bullets and `docs/findings.md` say of the results without a number."""
    for results in RUNS.values():
        ladder = results["proof"]["ladder"]
        f1 = {rung: of["scores"]["f1"] for rung, of in ladder.items()}
        fit = {rung: of["validity"]["arguments"]["rate"] for rung, of in ladder.items() if "validity" in of}
        asa = f1[whole(ladder, "action")]
        assert results["direction"] == "action" and results["gap_closed"] >= 0.95
        assert abs(f1["trigger forced or forbidden"] - asa) < 0.006
        for little in ("action: oracle router", "action: mismatched domains", "action: domain only"):
            assert abs(f1[little] - asa) < 0.025
        assert f1["necessity: domain only"] < asa - 0.3
        for equal in ("action: shared and residual", "action: cascade"):
            assert abs(f1[equal] - asa) < 0.01
        assert asa - 0.02 < f1["action: readiness, both ways"] < asa and f1["action: readiness"] < asa - 0.15
        assert f1["necessity: shared and residual"] < f1["necessity: full"] - 0.02 > f1["necessity: cascade"]
        assert fit["action: cascade"] < 0.1
        assert abs(fit[whole(ladder, "action")] - fit["baseline"]) < 0.02
        assert f1["LoRA, rank 16"] < asa - 0.05
        splits = {kind: results["proof"]["robustness"]["splits"]["summary"][kind] for kind in ("action", "necessity")}
        assert splits["action"]["gap_closed"]["mean"] > splits["necessity"]["gap_closed"]["mean"]
        assert splits["action"]["f1"]["std"] < splits["necessity"]["f1"]["std"]
        shown = {of["examples"]: of for of in results["proof"]["shown_examples"]}
        assert shown[0]["baseline"]["f1"] == 0 and shown[0]["action"]["f1"] < 0.2 < shown[0]["probe"]["f1"] - 0.7
        for count in (2, 4, 8):
            assert shown[count]["action"]["f1"] > shown[count]["baseline"]["f1"] + 0.2
        assert shown[2]["action"]["f1"] > shown[8]["baseline"]["f1"] + 0.15
        assert abs(shown[4]["action"]["f1"] - shown[8]["action"]["f1"]) < (0.01 if results is RESULTS else 0.02)
        for count in (2, 4):
            behind = shown[count]["action"]["f1"] - shown[count]["necessity"]["f1"]
            assert behind > (0.09 if results is RESULTS else 0.02)
        fallen = [domain["left_out"] for domain in results["proof"]["robustness"]["left_out"].values()]
        assert sum(of["action"]["f1"] < of["baseline"]["f1"] for of in fallen) == 3
        assert f1["action: one probe"] < f1["action: full"] - 0.02
        routed, weighed = (ladder[f"action: {name}"]["scores"] for name in ("routed probe", "full"))
        assert abs(routed["f1"] - weighed["f1"]) < 0.01 and routed["fpr"] > weighed["fpr"]
        assert 28_000 > results["adapter_bytes"] - 3_000 > 24_000  # its tensors; the file's header included
    assert RESULTS["gap_closed_paper"] >= 0.95 and RESULTS["mcnemar_paper"]["p_value"] > 0.05
    assert GEMMA["gap_closed_paper"] < 0.95 and GEMMA["mcnemar_paper"]["p_value"] < 0.001
    assert abs(GEMMA["first_token"]["asa"]["f1"] - GEMMA["first_token"]["asa_paper"]["f1"]) < 0.01
    assert GEMMA["proof"]["robustness"]["splits"]["summary"]["necessity"]["gap_closed"]["mean"] >= 0.95
    ladder = RESULTS["proof"]["ladder"]
    kept = {rung: of["damage"]["words_kept"]["rate"] for rung, of in ladder.items() if "damage" in of}
    assert abs(kept["trigger forced or forbidden"] - kept["action: looking ahead"]) < 0.02
    assert kept["action: full"] < kept["action: looking ahead"] - 0.2
    assert ladder["LoRA, rank 16"]["validity"]["arguments"]["rate"] > 0.9
    for folder in FOLDERS.values():
        saved = [folder / "asa_assets" / name for name in ("adapter.safetensors", "config.json")]
        assert 75_000 > sum(path.stat().st_size for path in saved) > 60_000  # about 70 KB
        held_out, blind = (json.loads((folder / f"{name}.json").read_text("utf-8")) for name in ("held_out", "blind"))
        assert held_out["n"] == 240 and blind["n"] == 275
        assert blind["asa"]["fpr"] > held_out["asa"]["fpr"]
        assert all(row["fpr"]["rate"] < 1.3 * row["wanted"] for row in blind["target_fpr"])


def test_the_words_on_everyday_requests_are_borne_out():
    """One call in ten, a false one for one in six, and whose they are."""
    small, gemma = (json.loads((folder / "blind.json").read_text("utf-8")) for folder in FOLDERS.values())
    assert 0.91 > small["asa"]["recall"] > 0.87 and 1 / 5.5 > gemma["asa"]["fpr"] > 1 / 6.5
    assert abs(small["asa"]["fp"] - small["probe"]["fp"]) + abs(small["asa"]["fn"] - small["probe"]["fn"]) < 4
    assert 0.4 < 1 - gemma["probe"]["fp"] / gemma["asa"]["fp"] < 0.5


def test_the_benchmarks_bear_out_ten_times():
    """Equal answers, about ten times as fast."""
    rows = [row.split(" | ") for row in text_of("benchmarks/results.md").splitlines() if row.endswith(" | yes |")]
    ratios = {name: float(ratio.removesuffix(" x")) for name, _, _, ratio, *_ in rows}
    whole = [ratio for name, ratio in ratios.items() if "generation" in name or "whole pipeline" in name]
    assert len(whole) == 2 and all(7 < ratio < 15 for ratio in whole)


def test_the_words_on_readers_requests_are_borne_out():
    """A third and half of the false calls; what is left behind a thousand; and the plain ones."""
    page, rows = text_of("benchmarks/readers.md"), {}
    for model, size, *cells in re.findall(r"^\| (\w+) \| (\d+) \| (.+) \| (.+) \| (.+) \| (.+) \|$", page, re.M):
        rows[model, int(size)] = dict(
            zip(("f1", "fpr", "plain"), (float(cell.split()[0]) for cell in cells), strict=False)
        )
    small, gemma = ({size: row for (of, size), row in rows.items() if of == model} for model in ("SmolLM2", "Gemma"))
    assert 0.28 < small[2000]["fpr"] / small[0]["fpr"] < 0.38 and 0.45 < gemma[2000]["fpr"] / gemma[0]["fpr"] < 0.55
    assert 0.4 < (small[0]["fpr"] - small[250]["fpr"]) / (small[0]["fpr"] - small[2000]["fpr"]) < 0.65
    assert small[2000]["f1"] <= small[1000]["f1"] and small[2000]["fpr"] < small[1000]["fpr"] - 0.02
    rising = [row["f1"] for _, row in sorted(gemma.items())]
    assert rising == sorted(rising) and gemma[0]["plain"] > gemma[2000]["plain"]


def test_both_languages_say_the_same():
    """Sections, tables, lists, code, links and the larger numbers."""
    english, korean = map(text_of, READMES)
    assert code_blocks(english) == code_blocks(korean)
    badge, notebook, other, *rest = links(english)
    assert links(korean) == [badge, notebook, "README.md", *rest] and other == "README_KR.md"
    shapes = [re.findall(r"^(#+ |\||- |\d\. |!\[)", text, re.MULTILINE) for text in (english, korean)]
    assert shapes[0] == shapes[1]
    numbers = [set(re.findall(r"\d[\d.,]*\d\d", without_tables_and_code(text))) for text in (english, korean)]
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize("name", READMES)
def test_the_first_screen_tells_it_all(name):
    """Badge, result, both commands as a newcomer would paste them, and one picture, before the first section."""
    first = text_of(name).partition("\n## ")[0]
    assert len(first.splitlines()) <= 45 and first.count("![") == 2
    assert "colab-badge.svg" in first and "<!-- table: result -->" in first
    assert "\npip install -r requirements.txt && python pipeline.py\n" in first
    assert "\npip install -r requirements.txt && python -m pytest\n" in first


@pytest.mark.parametrize("name", READMES)
def test_the_options_are_the_pipelines(name):
    listed = re.findall(r"^\| `(--[a-z-]+)", text_of(name), re.MULTILINE)
    own = [f"--{name.replace('_', '-')}" for name in ASKED]
    assert sorted(listed) == sorted([*own, *re.findall(r'"(--[a-z-]+)"', text_of("asa/app/options.py"))])


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    for link in links(text_of(name)):
        assert link.startswith("https://") or (ROOT / name).parent.joinpath(link.partition("#")[0]).exists(), link


def test_modules_named_exist():
    """The layout in CONTRIBUTING.md names every room, and what commands run is there."""
    rows = re.findall(r"^\| (`.*?`) \|", text_of("CONTRIBUTING.md"), re.MULTILINE)
    layout = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    rooms = {f"asa/{path.parent.name}/" for path in (ROOT / "asa").glob("*/__init__.py")}
    assert rooms <= set(layout)
    commands = re.findall(r"python (?:-m )?((?:asa|tests|benchmarks|create)[\w./]*)", "".join(map(text_of, PAGES)))
    for name in [*layout, *(name if ".py" in name else name.replace(".", "/") for name in commands)]:
        assert (ROOT / name).exists() or (ROOT / f"{name}.py").exists(), name


@pytest.mark.parametrize(("profile", "results"), RUNS.items(), ids=RUNS)
def test_committed_results_come_from_the_alpaca_benchmark(profile, results):
    """The outputs in the repository are the 1,600-request run's, by the folder's model."""
    assert results["benchmark"] == {"name": "alpaca", "n_test": 640}
    assert results["profile"] == profile


def test_committed_results_carry_no_request_text():
    """No JSON lines, no request of the project's own, and no string long enough to be one of Alpaca's."""
    assert not list((ROOT / "outputs").rglob("*.jsonl"))
    own = [path.read_text(encoding="utf-8").splitlines() for path in (ROOT / "data").glob("*.jsonl")]
    texts = [row["text"] for line in itertools.chain(*own) if "text" in (row := json.loads(line))]
    assert len(texts) > 800
    for folder in FOLDERS.values():
        for path in [*folder.glob("*.md"), *folder.glob("*.json")]:
            written = path.read_text(encoding="utf-8")
            assert not [text for text in texts if len(text) > 20 and text in written], path
            if path.suffix == ".json":
                assert max(map(len, re.findall(r'"((?:[^"\\]|\\.)*)"', written))) < 60, path
