"""The ladder and the damage as sections of the report, with what else the study found behind them.

`proof_sections` writes all that the proof found. Sentences here are made from the numbers, so that they say what came
out, also where it goes against the claim.
"""

from collections.abc import Callable

from asa.evaluation.ablations import whole
from asa.evaluation.metrics import gap_closed
from asa.evaluation.tables import (
    calls_table,
    markdown_table,
    printed,
    rate_with_interval,
    with_interval,
    with_reasons,
)
from asa.method.directions import ACTION, DIRECTIONS, NECESSITY
from asa.study.ladder import FORCED
from asa.study.reading_sections import (
    gates_section,
    geometry_section,
    layers_section,
    learning_section,
    third_section,
)
from asa.study.robustness_sections import robustness_sections, shown_section
from asa.study.scoring import PROBE

KEPT = 0.95  # share of the gap that counts as closed


def proof_sections(proof: dict | None) -> list[str]:
    """The sections, in the report's order; `proof` is `results["proof"]`, and None where none was run."""
    if proof is None:
        return []
    spared = proof["ladder"]["baseline"]["damage"]
    sections = [
        "## The ladder (TEST, greedy generation on every rung)",
        _verdict(proof),
        _ladder_table(proof["ladder"]),
        "McNemar, exact, two-sided: requests that only the rung, and only the other, got right. The whole method is "
        "that of the rung's direction, or of the chosen one. Forcing the trigger and Probe&Prefill obey the chosen "
        "direction's gate; other prompts and trained weights have none. The ablations obey their direction's, but for "
        "those that change gate, probe or router. At beta 1 all domains share one vector, and `full`, `mismatched "
        "domains` and `global only` are the same.",
        "### What follows on each rung",
        "Rates over the answers that call. Then, on the requests that need no tool: the share of answers unchanged to "
        f"the token, of all {spared['unchanged']['total']} and of the {spared['words_kept']['total']} that were in "
        "words already, and the mean log-probability per token (nats) that the unsteered model gives the rung's "
        "answers.",
        _follow_table(proof["ladder"]),
        _forcing(proof),
        "### How far the next token's distribution moves",
        "KL(after || before) in nats on TEST requests that need no tool, by what the gate said.",
        _kl_table(proof["kl"]),
    ]  # fmt: skip
    sections += third_section(proof.get("third_version"), proof["ladder"])  # earlier runs have none
    if proof.get("calls"):  # a run without a grammar has none, nor have earlier runs
        sections += [
            "### What writing the calls adds",
            "Rates over all requests that need a tool. The baseline and ASA write freely; then the calls are held to a "
            "grammar of plain schemas, to the router's tool, to the whole schemas, and are written in a prompt of "
            "their own. Whether to call is the same from ASA's free calls on, but for the forced trigger and LoRA.",
            "![Calls](calls.png)",
            markdown_table(*calls_table(proof["calls"], "rung")),
        ]
    if proof["lora"]:
        sections += ["### LoRA", _lora(proof["lora"])]
    sections += [
        "## Doses and layers (VALID, next token after the push)",
        "Along each domain's own vector (beta 0), at the chosen tau; one vector for all domains is the "
        'ladder\'s "global only".',
        "![Dose curves](dose_curves.png)",
        "![What is read and what is achieved](layer_curve.png)",
        layers_section(proof["layers"], proof["auc"]),
        *learning_section(proof.get("learning")),  # earlier runs have none
        "## Other gates (nothing is steered)",
        gates_section(proof["gates"]),
        "## Geometry (CAL)",
        "Cosines of the two directions (all domains together) with each other and with the trigger's row of the output "
        "matrix less the mean row, scaled by the final norm's gains. The domains' cosines with each other stand above.",
        geometry_section(proof["geometry"]),
    ]
    sections += shown_section(proof.get("shown_examples"), proof["direction"])  # earlier runs have none
    return sections + (robustness_sections(proof["robustness"], proof["direction"]) if proof["robustness"] else [])


def gaps(ladder: dict) -> dict[str, float | None]:
    """Direction -> share of the gap between the baseline's F1 and the probe's that it closes, by generation.

    None where there is no gap.
    """
    base, probe = (ladder[name]["scores"]["f1"] for name in ("baseline", PROBE))
    return {kind: gap_closed(ladder[whole(ladder, kind)]["scores"]["f1"], base, probe) for kind in DIRECTIONS}


def _verdict(proof: dict) -> str:
    base, probe = (proof["ladder"][name]["scores"]["f1"] for name in ("baseline", PROBE))
    closed = gaps(proof["ladder"])
    shares = {kind: share for kind, share in closed.items() if share is not None}
    if not shares:
        return (
            f"On this model the probe (F1 {printed(probe)}) is no better than the baseline ({printed(base)}): there is "
            "no gap to close."
        )
    words = {kind: "closes" if share >= KEPT else "does not close" for kind, share in shares.items()}
    return (
        f"On this model the action direction {words[ACTION]} the gap ({closed[ACTION]:.2f} of it; {KEPT} counts as "
        f"closed) and the paper's {words[NECESSITY]} it ({closed[NECESSITY]:.2f}), each at its best setting on VALID."
    )


def _ladder_table(ladder: dict) -> str:
    rows = []
    for name, rung in ladder.items():
        columns = [with_interval(rung["scores"], m) for m in ("precision", "recall", "f1", "fpr", "accuracy")]
        tests = [rung["mcnemar"], rung["against_full"]]
        rows.append([name, *columns, *[f"{t['only_b']} / {t['only_a']}, p = {t['p_value']:.1g}" for t in tests]])
    heads = ["rung", "precision", "recall", "F1", "FPR", "accuracy", "McNemar against baseline", "the whole method"]
    return with_reasons(markdown_table(heads, rows), {name: rung["scores"] for name, rung in ladder.items()})


def _follow_table(ladder: dict) -> str:
    rows = []
    for name, rung in ladder.items():
        if name == PROBE:
            continue
        rates = rung["validity"]
        columns = [rate_with_interval(rates[part]) for part in ("format", "tool", "arguments")]
        damage = rung["damage"]
        columns += [*map(rate_with_interval, (damage["unchanged"], damage["words_kept"])), damage["log_p"]]
        rows.append([name, rates["format"]["total"], *columns])
    heads = ["rung", "calls", "format", "tool", "arguments", "unchanged", "words kept", "log p per token"]
    return markdown_table(heads, rows)


def _forcing(proof: dict) -> str:
    forced, asa = (proof["ladder"][name] for name in (FORCED, whole(proof["ladder"], proof["direction"])))
    paired = forced["against_full"]

    def pair(of: Callable[[dict], float | None]) -> str:
        return f"{printed(of(forced))} against {printed(of(asa))}"

    return (
        f"**Forcing or forbidding the trigger's first token against steering** ({proof['direction']} direction), same "
        f"gate: F1 {pair(lambda r: r['scores']['f1'])}, FPR {pair(lambda r: r['scores']['fpr'])} (McNemar: "
        f"{paired['only_b']} requests only forcing got right, {paired['only_a']} only steering, p = "
        f"{paired['p_value']:.2g}); calls whose arguments fit {pair(lambda r: r['validity']['arguments']['rate'])}; "
        f"answers unchanged {pair(lambda r: r['damage']['unchanged']['rate'])}, their log-probability per token "
        f"{pair(lambda r: r['damage']['log_p'])}."
    )


def _kl_table(kl: dict) -> str:
    rows = [[name, *[value for sign in ("-1", "+0", "+1") for value in of[sign]]] for name, of in kl.items()]
    return markdown_table(["intervention", "gate -1", "requests", "gate 0", "requests", "gate +1", "requests"], rows)


def _lora(run: dict) -> str:
    return (
        f"Trained on CAL and TRAIN in {run['seconds'] / 60:.1f} minutes: {run['parameters']:,} parameters, "
        f"{run['bytes'] / 1e6:.1f} MB, {run['steps']} steps, learning rate {run['rate']:g} (2e-4 did worse on "
        f"SmolLM2's VALID in an earlier run), loss {run['first_loss']:.2f} to {run['last_loss']:.2f} nats a token; on "
        f"VALID, next token: F1 {printed(run['valid_f1'])}, FPR {printed(run['valid_fpr'])}. Left out, since their "
        f"answers in words open a call later: {run['left_out']} requests."
    )
