"""Robustness in the report: every number stands in its place, and what could not be made is said."""

import pytest
from proofs import KINDS, PLACES, make_proof, rows_of, section, shown, spread, text_of

from asa.study.sections import proof_sections


def test_other_splits_give_mean_and_deviation(proof):
    assert "3 splits, mean ± standard deviation." in section(proof, "Other splits")
    summary = proof["robustness"]["splits"]["summary"]
    assert rows_of(proof, "Other splits") == [
        [run, spread(of["gap_closed"]) if run in KINDS else "-", spread(of["f1"]), spread(of["fpr"])]
        for run, of in summary.items()
    ]


def test_robustness_stands_there_only_where_it_was_tested(proof):
    with_all = proof_sections(proof)
    assert "Robustness" in text_of(proof)
    proof["robustness"] = None
    without = proof_sections(proof)
    assert without == with_all[: len(without)] and "Robustness" not in text_of(proof)


def test_what_could_not_be_made_is_said(proof):
    proof["robustness"] |= {"splits": None, "keywords": {"no_keywords": ["weather", "mail"]}}
    assert "No other split could be made" in section(proof, "Other splits")
    assert "No keywords are known for weather, mail." in section(proof, "Keyword labels")
    proof["robustness"]["keywords"] = {"one_label": ["math"]}
    assert "The keywords give all CAL requests of math one label" in section(proof, "Keyword labels")
    assert "No keywords are known" not in text_of(proof)


def test_robustness_says_what_was_chosen_on_what(proof):
    assert "nothing was chosen on it. Each direction is read and pushed at the layer" in section(proof, "Robustness")
    assert "VALID (necessity 23, action 29); the probe that stands alone is that of the action" in text_of(proof)
    seen = proof["robustness"]["splits"]["seen"]
    assert f"on average {seen:.3f} of a new TEST was in it" in section(proof, "Other splits")
    text = section(proof, "Other gates")
    assert "picked by its AUC on VALID out of 12," in text and "second layer of the pair was picked" in text


def test_a_wanted_rate_shows_valid_then_test(proof):
    target = proof["robustness"]["target_fpr"]
    thresholds = ", ".join(f"{kind} {threshold:.3f}" for kind, threshold in target["thresholds"].items())
    assert f"on VALID at or below 0.05 ({thresholds}): above it" in section(proof, "A wanted")
    valid = target["valid"]["probe"]
    assert rows_of(proof, "A wanted") == [
        ["probe, VALID", *shown(valid["f1"], valid["fpr"])],
        *[[f"{run}, TEST", *shown(of["f1"], of["fpr"])] for run, of in target["test"].items()],
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_robustness_tables_show_the_chosen_direction(kind):
    """Baseline, probe and the direction, F1 before FPR; the rows say what was fitted on what."""
    proof, _ = make_proof(kind)
    robust = proof["robustness"]

    def cells(runs: dict) -> list[str]:
        return shown(*[runs[run][m] for run in ("baseline", "probe", kind) for m in ("f1", "fpr")])

    left_out = robust["left_out"]
    assert rows_of(proof, "A domain left out") == [
        [name, who, *cells(left_out[name][fitted])]
        for name in ("math", "code")
        for who, fitted in (("the others", "left_out"), ("all", "all_domains"))
    ]
    fitted_on = robust["keywords"]["fitted_on"]
    assert rows_of(proof, "Keyword labels") == [
        [source, truth, *cells(fitted_on[source][f"against_{truth}"])] for source in fitted_on for truth in fitted_on
    ]
    clean, few, more = robust["committed"], *(of["summary"] for of in robust["wrong_labels"])
    assert rows_of(proof, "Wrong labels") == [
        ["0 %", *shown(clean["probe"]["f1"], clean[kind]["f1"], clean[kind]["fpr"], clean[kind]["gap_closed"])],
        *[
            [share, spread(of["probe"]["f1"]), *[spread(of[kind][m]) for m in ("f1", "fpr", "gap_closed")]]
            for share, of in (("5 %", few), ("10 %", more))
        ],
    ]
    for head in ("A domain left out", "Wrong labels", "Keyword labels"):
        assert f"{kind} F1" in section(proof, head)


def test_keywords_agreement_is_that_of_all_requests(proof):
    words = proof["robustness"]["keywords"]
    text = section(proof, "Keyword labels")
    assert f"on {words['agreement']['all']:.3f} of the requests (Cohen's kappa {words['kappa']:.3f})" in text


def test_the_probe_s_claim_stands_beside_what_the_model_does(proof):
    text, protocol = section(proof, "Scoring the probe"), proof["robustness"]["probe_protocol"]
    assert "18 settings of dose and beta tie (tau 0.6)" in text
    claimed, ours = protocol["claimed"]["test"], protocol["ours"]
    assert f"the probe claims F1 {claimed['f1']:.3f} and FPR {claimed['fpr']:.3f} for all of them" in text
    for place in PLACES:
        real = protocol["real"][place]
        assert f"{place} F1 {real['f1']:.3f}, FPR {real['fpr']:.3f} (dose 0.35, beta 0.5)" in text
    f1, fpr = shown(ours["test"]["f1"], ours["test"]["fpr"])
    assert f"with its own beta and tau (dose 0.75, beta 1.0, tau 0.7): F1 {f1}, FPR {fpr}." in text
