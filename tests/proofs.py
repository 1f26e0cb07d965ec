"""What a proof found, in numbers of which no two are alike, and how the report's sections are read."""

import itertools

from asa.study.ladder import FORCED
from asa.study.scoring import PROBE
from asa.study.sections import proof_sections

KINDS = ("necessity", "action")
PLACES = ("lowest", "median", "highest")


class Fresh:
    """Numbers of which no two are alike: 0.101, 0.102, ... and 1001, 1002, ..."""

    def __init__(self):
        self.rates, self.counts = (number / 1000 for number in range(101, 1000)), itertools.count(1001)
        self.given: list[float] = []

    def rate(self) -> float:
        self.given.append(next(self.rates))
        return self.given[-1]

    def interval(self) -> list[float]:
        return [self.rate(), self.rate()]

    def spread(self, names=("f1", "fpr")) -> dict:
        return {name: {"mean": self.rate(), "std": self.rate()} for name in names}

    def rates_of(self, names=("f1", "fpr")) -> dict:
        return {name: self.rate() for name in names}

    def rung(self, says: bool = True) -> dict:
        names = ("precision", "recall", "f1", "fpr", "accuracy")
        row = {
            "scores": self.rates_of(names) | {"intervals": {name: self.interval() for name in names}},
            "mcnemar": {"only_a": next(self.counts), "only_b": next(self.counts), "p_value": 0.0321},
            "against_full": {"only_a": next(self.counts), "only_b": next(self.counts), "p_value": 0.0456},
        }
        if not says:
            return row
        called, spared, in_words = next(self.counts), next(self.counts), next(self.counts)
        return row | {
            "validity": {part: self.rate_of(called) for part in ("format", "tool", "arguments")},
            "damage": {"unchanged": self.rate_of(spared), "words_kept": self.rate_of(in_words), "log_p": -self.rate()},
        }

    def rate_of(self, total: int) -> dict:
        return {"rate": self.rate(), "interval": self.interval(), "total": total}


def make_proof(direction: str = "action") -> tuple[dict, list[float]]:
    """What `pipeline.py` puts together, with four rungs and two domains; and all its rates that should be shown."""
    new = Fresh()
    gap = ("f1", "fpr", "gap_closed")
    rungs = ["baseline", FORCED, *[f"{kind}: full" for kind in KINDS]]
    left_out = {
        name: {"left_out": {r: new.rates_of() for r in ("baseline", "probe", direction)},
               "all_domains": {r: new.rates_of() for r in ("baseline", "probe", direction)}}
        for name in ("math", "code")
    }  # fmt: skip
    fitted = {
        source: {f"against_{truth}": {r: new.rates_of() for r in ("baseline", "probe", direction)}
                 for truth in ("keywords", "annotations")}
        for source in ("keywords", "annotations")
    }  # fmt: skip
    proof = {
        "ladder": {name: new.rung() for name in rungs} | {PROBE: new.rung(says=False)},
        "direction": direction,
        "kl": {
            name: {sign: [new.rate(), next(new.counts)] for sign in ("-1", "+0", "+1")} for name in (*KINDS, FORCED)
        },
        "lora": {
            "seconds": 150.0, "parameters": 2350080, "bytes": 9400320, "steps": 57, "first_loss": 4.91,
            "last_loss": 1.23, "rate": 0.0002, "valid_f1": new.rate(), "valid_fpr": new.rate(), "left_out": 17,
        },
        "auc": {"1": 0.0, "2": new.rate(), "3": 0.01},
        "layers": [{"layer": 1, "necessity": 0.0, "action": new.rate()}, {"layer": 2, "necessity": new.rate(),
                   "action": 0.0}, {"layer": 3, "necessity": 0.0, "action": 0.0}],
        "gates": [
            {"gate": name, "valid": new.rates_of(("auc", "f1", "fpr")), "ahead": new.spread(["f1"])["f1"],
             "folds": new.spread(("auc", "f1", "fpr"))}
            for name in ("ours", "LDA", "SVM")
        ],
        "geometry": {
            pair: {"global": [None, new.rate(), -new.rate()], "math": [None, 0.0, 0.0]}
            for pair in ("necessity_action", "necessity_trigger", "action_trigger")
        },
        "robustness": {
            "committed": {"probe": {"f1": new.rate()}} | {
                kind: {"layer": layer} | (new.rates_of(gap) if kind == direction else {})
                for kind, layer in zip(KINDS, (23, 29), strict=True)
            },
            "splits": {
                "seeds": [1, 2, 3], "seen": new.rate(),
                "summary": {r: new.spread() for r in ("baseline", "probe")} | {kind: new.spread(gap) for kind in KINDS},
            },
            "left_out": left_out,
            "wrong_labels": [
                {"share": share, "summary": {"probe": {"f1": new.spread(["f1"])["f1"]}, direction: new.spread(gap)}}
                for share in (0.05, 0.1)
            ],
            "keywords": {"agreement": {"all": new.rate()}, "kappa": new.rate(), "fitted_on": fitted},
            "target_fpr": {
                "target_fpr": 0.05, "thresholds": {kind: new.rate() for kind in KINDS},
                "valid": {"probe": new.rates_of()},
                "test": {run: new.rates_of() for run in ("probe", *KINDS)},
            },
            "probe_protocol": {
                "tied": 18, "tau": 0.6, "claimed": {"test": new.rates_of()},
                "real": {place: {"dose": 0.35, "beta": 0.5} | new.rates_of() for place in PLACES},
                "ours": {"dose": 0.75, "beta": 1.0, "tau": 0.7, "test": new.rates_of()},
            },
        },
    }  # fmt: skip
    return proof, new.given


def text_of(proof: dict) -> str:
    return "\n\n".join(proof_sections(proof))


def section(proof: dict, head: str) -> str:
    """The text below a heading that starts with `head`."""
    return text_of(proof).split(f"# {head}", 1)[1].split("\n#", 1)[0]


def rows_of(proof: dict, head: str) -> list[list[str]]:
    """A section's table, without its head."""
    lines = [line for line in section(proof, head).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def shown(*values: float) -> list[str]:
    return [f"{value:.3f}" for value in values]


def pair(value: float, interval: list[float]) -> str:
    return f"{value:.3f} ({interval[0]:.3f}-{interval[1]:.3f})"


def spread(of: dict) -> str:
    return f"{of['mean']:.3f} ± {of['std']:.3f}"
