"""Proof: every number that was found stands in its place, and the sentences say what the numbers say."""

import copy
import itertools
import json
import re
from pathlib import Path

import pytest
from proofs import KINDS, make_proof, pair, rows_of, section, shown, spread, text_of

from asa.study.ladder import FORCED
from asa.study.scoring import PROBE
from asa.study.sections import KEPT, gaps, proof_sections

TABLES = {
    "The ladder": 8, "What follows": 8, "How far": 7, "Other splits": 4, "A wanted": 3, "A domain left out": 8,
    "Wrong labels": 5, "Keyword labels": 8, "Geometry": 4, "Other gates": 8,
}  # fmt: skip


def with_gaps(proof: dict, **shares: float) -> dict:
    """The same proof where the baseline's F1 is .4, the probe's .9 and a direction closes that share of the gap."""
    proof = copy.deepcopy(proof)
    f1 = {"baseline": 0.4, PROBE: 0.9} | {f"{kind}: full": 0.4 + 0.5 * share for kind, share in shares.items()}
    for name, value in f1.items():
        proof["ladder"][name]["scores"]["f1"] = value
    return proof


def test_every_rate_is_shown():
    """All 3-digit rates of the fixture, no two of which are alike."""
    proof, given = make_proof()
    text = text_of(proof)
    assert len(given) == len(set(given)) > 200
    assert [rate for rate in given if f"{rate:.3f}" not in text] == []


def test_every_table_has_its_head_and_equal_rows(proof):
    for head, columns in TABLES.items():
        table = [line for line in section(proof, head).splitlines() if line.startswith("|")]
        assert len(table) > 2 and set(table[1]) == {"|", "-"}, head
        assert {line.count("|") for line in table} == {columns + 1}, head


def test_gaps_are_shares_of_the_way_from_the_baseline_to_the_probe(proof):
    proof = with_gaps(proof, necessity=0.25, action=1.1)
    assert gaps(proof["ladder"]) == {"necessity": pytest.approx(0.25), "action": pytest.approx(1.1)}
    proof["ladder"][PROBE]["scores"]["f1"] = 0.4
    assert gaps(proof["ladder"]) == {"necessity": None, "action": None}


def verdict(proof: dict) -> str:
    (sentence,) = (line for line in proof_sections(proof) if line.startswith("On this model"))
    return sentence


@pytest.mark.parametrize(
    ("necessity", "action", "says"),
    [
        (0.27, 0.99, ("closes", "0.99", "does not close", "0.27")),
        (0.99, 0.27, ("does not close", "0.27", "closes", "0.99")),
        (0.96, 1.2, ("closes", "1.20", "closes", "0.96")),
        (-0.5, 0.94, ("does not close", "0.94", "does not close", "-0.50")),
    ],
)
def test_the_verdict_follows_the_numbers(proof, necessity, action, says):
    """Also against the claim that the action direction does it and the paper's does not."""
    of_action, closed_action, of_paper, closed_paper = says
    assert verdict(with_gaps(proof, necessity=necessity, action=action)).startswith(
        f"On this model the action direction {of_action} the gap ({closed_action} of it; {KEPT} counts as closed) and "
        f"the paper's {of_paper} it ({closed_paper})"
    )


def test_the_verdict_says_where_there_is_no_gap(proof):
    for f1 in (0.4, 0.35):
        proof = with_gaps(proof, necessity=0.5, action=0.5)
        proof["ladder"][PROBE]["scores"]["f1"] = f1
        assert verdict(proof) == (
            f"On this model the probe (F1 {f1:.3f}) is no better than the baseline (0.400): there is no gap to close."
        )


def test_rates_that_are_missing_are_dashes_everywhere(proof):
    """No number of the proof need be there for it to be written, but for those that are counts."""

    def without(of):
        if isinstance(of, dict):
            gone = ("f1", "fpr", "precision", "recall", "accuracy", "rate", "interval", "log_p", "valid_f1",
                    "valid_fpr", "gap_closed", "auc")  # fmt: skip
            return {name: without(value) for name, value in of.items()} | {
                name: without(of[name]) if isinstance(of[name], dict) else None for name in gone if name in of
            }
        return [without(value) for value in of] if isinstance(of, list) else of

    found = without(proof) | {"auc": proof["auc"]}
    found["lora"]["rate"] = proof["lora"]["rate"]  # of learning
    for of in (found["robustness"]["splits"]["summary"]["baseline"], found["gates"][0]["folds"]):
        of["f1"] = {"mean": None, "std": None, "counted": 0, "total": 3}
    found["gates"][1]["ahead"] = {"mean": 0.25, "std": 0.125, "counted": 2, "total": 3}
    for at in found["layers"]:
        at |= {"action": None}
    text = text_of(found)
    assert "None" not in text and "nan" not in text
    assert verdict(found) == (
        "On this model the probe (F1 -) is no better than the baseline (-): there is no gap to close."
    )
    assert "No request, so there are no rates." in section(found, "The ladder")
    assert "F1 - against -, FPR - against - (McNemar" in section(found, "What follows")
    assert "on VALID, next token: F1 -, FPR -." in " ".join(section(found, "LoRA").split())
    assert "achieves most at layer 1 (F1 -)" in section(found, "Doses and layers")
    assert "the probe claims F1 - and FPR - for all" in section(found, "Scoring the probe")
    assert rows_of(found, "Other splits")[0][2] == "-"
    assert rows_of(found, "Other gates")[1][-1] == "+0.250 ± 0.125 (2 of 3 have one)"
    assert rows_of(found, "A domain left out")[0] == ["math", "the others", *["-"] * 6]


def test_the_ladder_shows_every_rung(proof):
    rows = rows_of(proof, "The ladder")
    assert [name for name, *_ in rows] == list(proof["ladder"])
    for name, *cells in rows:
        rung = proof["ladder"][name]
        scores, paired, full = rung["scores"], rung["mcnemar"], rung["against_full"]
        names = ("precision", "recall", "f1", "fpr", "accuracy")
        assert cells[:5] == [pair(scores[m], scores["intervals"][m]) for m in names]
        assert cells[5] == f"{paired['only_b']} / {paired['only_a']}, p = 0.03"
        assert cells[6] == f"{full['only_b']} / {full['only_a']}, p = 0.05"


def test_what_follows_leaves_out_the_probe_which_says_nothing(proof):
    proof["ladder"]["baseline"]["damage"]["words_kept"]["total"] = 0
    spared = proof["ladder"]["baseline"]["damage"]["unchanged"]["total"]
    assert f"of all {spared} and of the 0 that were in words already" in section(proof, "What follows")
    rows = rows_of(proof, "What follows")
    assert [name for name, *_ in rows] == [name for name in proof["ladder"] if name != PROBE]
    for name, *cells in rows:
        valid, damage = proof["ladder"][name]["validity"], proof["ladder"][name]["damage"]
        assert cells[0] == str(valid["tool"]["total"])
        assert cells[1:4] == [pair(valid[m]["rate"], valid[m]["interval"]) for m in ("format", "tool", "arguments")]
        same, kept = (pair(damage[m]["rate"], damage[m]["interval"]) for m in ("unchanged", "words_kept"))
        assert cells[4:] == [same, "-" if name == "baseline" else kept, *shown(damage["log_p"])]


@pytest.mark.parametrize("kind", KINDS)
def test_forcing_is_compared_with_the_chosen_direction(kind):
    proof, _ = make_proof(kind)
    text = section(proof, "What follows")
    assert f"({kind} direction), same gate" in text
    forced, steered = proof["ladder"][FORCED], proof["ladder"][f"{kind}: full"]
    for name, of in (
        ("F1", lambda rung: rung["scores"]["f1"]),
        ("FPR", lambda rung: rung["scores"]["fpr"]),
        ("calls whose arguments fit", lambda rung: rung["validity"]["arguments"]["rate"]),
        ("answers unchanged", lambda rung: rung["damage"]["unchanged"]["rate"]),
        ("log-probability per token", lambda rung: rung["damage"]["log_p"]),
    ):
        assert f"{name} {of(forced):.3f} against {of(steered):.3f}" in text
    paired = forced["against_full"]
    assert f"{paired['only_b']} requests only forcing got right, {paired['only_a']} only steering, p = 0.046" in text


def test_distances_stand_under_their_gate_with_their_number_of_requests(proof):
    proof["kl"]["necessity"]["+0"] = [None, 0]
    rows = rows_of(proof, "How far")
    assert [name for name, *_ in rows] == list(proof["kl"])
    for name, *cells in rows:
        of = proof["kl"][name]
        expected = [(["-"] if of[sign][0] is None else shown(of[sign][0])) + [str(of[sign][1])] for sign in of]
        assert cells == list(itertools.chain(*expected)) and list(of) == ["-1", "+0", "+1"]


def test_lora_has_a_section_only_where_it_was_trained(proof):
    text, lora = section(proof, "LoRA"), proof["lora"]
    for part in (
        "in 2.5 minutes", "2,350,080 parameters", "9.4 MB", "57 steps", "learning rate 0.0002", "4.91 to 1.23 nats",
        "open a call later: 17 requests",
        f"F1 {lora['valid_f1']:.3f}", f"FPR {lora['valid_fpr']:.3f}",
    ):  # fmt: skip
        assert part in text
    proof["lora"] = None
    assert "LoRA" not in text_of(proof)


def test_the_layers_sentence_names_the_best_of_each(proof):
    """Reading best and steering best may be three layers."""
    proof["auc"] = {"1": 0.9, "2": 0.901, "3": 0.95}
    proof["layers"] = [
        {"layer": layer, "necessity": necessity, "action": action}
        for layer, necessity, action in ((1, 0.6, 0.71), (2, 0.65, 0.7), (3, 0.61, 0.69))
    ]
    assert (
        "reads best at layer 3 (AUC 0.950). At its best dose the action direction achieves most at layer 1 (F1 0.710), "
        "the paper's at layer 2 (F1 0.650)."
    ) in section(proof, "Doses and layers")
    proof["layers"][2] |= {"necessity": 0.8, "action": 0.81}
    proof["auc"]["2"] = 0.99
    text = section(proof, "Doses and layers")
    assert "best at layer 2 (AUC 0.990)" in text
    assert "at layer 3 (F1 0.810), the paper's at layer 3 (F1 0.800)" in text


def test_other_gates_stand_in_their_columns_and_the_best_on_valid_is_named(proof):
    rows = rows_of(proof, "Other gates")
    assert rows == [
        [
            of["gate"], *shown(of["valid"]["auc"], of["valid"]["f1"], of["valid"]["fpr"]),
            *[spread(of["folds"][m]) for m in ("auc", "f1", "fpr")], f"+{spread(of['ahead'])}",
        ]
        for of in proof["gates"]
    ]  # fmt: skip
    for best, f1 in ((1, 0.991), (0, 0.992), (2, 0.993)):
        proof["gates"][best]["valid"]["f1"] = f1
        ours = proof["gates"][0]["valid"]["f1"]
        name = proof["gates"][best]["gate"]
        assert f'the best is "{name}" ({f1}; ours {ours:.3f}).' in section(proof, "Other gates")
    proof["gates"][1]["ahead"] = {"mean": -0.25, "std": 0.125}
    assert rows_of(proof, "Other gates")[1][-1] == "-0.250 ± 0.125"


def test_figures_are_shown_by_the_names_that_they_are_given(proof):
    drawn = (Path(__file__).parents[2] / "asa" / "study" / "figures.py").read_text(encoding="utf-8")
    figures = re.findall(r"!\[.+?\]\((.+?)\)", text_of(proof))
    assert len(figures) == 3
    assert all(f"{{folder}}/{figure}" in drawn for figure in figures)


@pytest.mark.parametrize("constant", [True, False])
def test_geometry_shows_a_row_a_layer(proof, constant):
    """The global cosines; a constant layer has none."""
    first = None if constant else 0.25
    for of in proof["geometry"].values():
        of["global"][0] = first
    columns = [of["global"] for of in proof["geometry"].values()]
    assert rows_of(proof, "Geometry") == [
        [str(layer), *["-" if column[layer] is None else f"{column[layer]:.3f}" for column in columns]]
        for layer in range(3)
    ]
    assert "| layer | necessity, action | necessity, trigger | action, trigger |" in section(proof, "Geometry")


def test_a_proof_reads_the_same_after_json(proof):
    assert text_of(json.loads(json.dumps(proof))) == text_of(proof)
