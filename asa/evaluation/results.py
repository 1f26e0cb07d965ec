"""Results: everything that a run found, section by section; `results.json` and back.

Nothing is computed on a model here, and nothing is chosen. Every number that the report, the figures and the README
show stands in `Results`.
"""

import json
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from asa.support.files import UserError

EARLIER_LACK = ("calls", "made_with", "target_fpr", "tool_choice")  # keys that files of earlier runs may lack


@dataclass(frozen=True)
class Benchmark:
    """Which requests were tested: `name`, and `n_test` of them."""

    name: str
    n_test: int


@dataclass(frozen=True)
class Paired:
    """Exact McNemar test of two runs: requests that only one of them got right, and the two-sided p-value."""

    only_a: int
    only_b: int
    p_value: float


@dataclass(frozen=True)
class Run:
    """What was run: the profile's name, where the weights came from, the requests, and limits in tokens.

    `made_with` says what the numbers may depend on besides (`collected.made_with`); files of earlier runs have none.
    """

    profile: str
    model: str
    benchmark: Benchmark
    max_new_tokens: int
    words_limit: int
    made_with: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Chosen:
    """The setting chosen on VALID; `alpha` is the push's length, `dose` the same over the mean state norm."""

    layer: int
    direction: str
    alpha: float
    dose: float
    tau: float
    beta: float


@dataclass(frozen=True)
class Scores:
    """TEST. Scores are those of `metrics.trigger_metrics`, which tables pick rates from by name.

    Attributes:
        test: Run -> scores.
        gap_closed: Share of the gap between the F1 of baseline and probe that ASA closes; None where there is none.
        gap_closed_paper: The same of the paper's direction.
        mcnemar: Baseline (a) against ASA (b).
        mcnemar_paper: The paper's direction (a) against ASA (b).
        first_token: Run -> scores, where only the first token counts.
        per_domain: Run -> domain -> scores.
        validity: Run -> `format`, `tool` and `arguments` -> `metrics.rate_of`.
        ablations: Variant -> scores, by the next token.
        calls: Run -> steps from a call to the job done (`calls.call_steps`); files of earlier runs have none.
        target_fpr: What the gate does when it is set by a wanted share of false calls (`targets.target_rates`); files
            of earlier runs have none.
    """

    test: dict
    gap_closed: float | None
    gap_closed_paper: float | None
    mcnemar: Paired
    mcnemar_paper: Paired
    first_token: dict
    per_domain: dict
    validity: dict
    ablations: dict
    calls: dict = field(default_factory=dict)
    target_fpr: list = field(default_factory=list)


@dataclass(frozen=True)
class Tuning:
    """VALID: the paper's direction at its best, how many settings were scored, the chosen one by replay and in full.

    `tool_choice` says which tools ASA's calls may name and how sure the router must be; it is empty where the model
    writes its calls freely, as in files of earlier runs.
    """

    paper_setting: dict
    settings_scored: int
    valid: dict
    valid_generated: dict
    tool_choice: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Readings:
    """Where the need can be read: every layer's AUC, the plateau's, the controls; the domains and their cosines."""

    layers: list
    layer_plateau: int
    auc_plateau: float
    shuffled_plateau: float
    length_auc: float
    constant_note: str
    domains: list
    cosines: dict
    probe: dict


@dataclass(frozen=True)
class Results:
    """Everything that a run found. In the file the sections' fields stand side by side, in this order.

    Attributes:
        run: What was run.
        chosen: The setting.
        scores: TEST.
        tuning: VALID.
        readings: The sweep over layers, and the directions.
        seed: Of splits and bootstraps.
        adapter_bytes: Size of the adapter's arrays.
        proof: What the study found, section -> its own object, or None. It stays a mapping: each module of the study
            makes, keeps and writes up its own part.
        stage_seconds: Stage -> seconds.
        seconds: Their sum.
    """

    run: Run
    chosen: Chosen
    scores: Scores
    tuning: Tuning
    readings: Readings
    seed: int
    adapter_bytes: int
    proof: dict | None
    stage_seconds: dict
    seconds: float

    def finished(self, proof: dict | None, seconds: dict[str, float]) -> "Results":
        """The same with what the study found and how many seconds every stage took."""
        return replace(self, proof=proof, stage_seconds=seconds, seconds=round(sum(seconds.values()), 2))

    def to_json(self) -> dict[str, Any]:
        """As `results.json` holds it."""
        whole, value = asdict(self), dict[str, Any]()
        for name, hint in get_type_hints(Results).items():
            value |= whole[name] if is_dataclass(hint) else {name: whole[name]}
        return {key: part for key, part in value.items() if part or key not in EARLIER_LACK}

    @classmethod
    def from_json(cls, value: Any, source: str | Path = "results.json") -> "Results":
        """What `to_json` gave; `UserError` names `source` and the key that is missing or of the wrong kind."""
        if not isinstance(value, dict):
            raise UserError(f"{source} holds no results; run pipeline.py to write it again.")
        hints = get_type_hints(cls)
        flat = {name: hint for name, hint in hints.items() if not is_dataclass(hint)}
        sections = {name: _read(hint, value, source) for name, hint in hints.items() if name not in flat}
        return cls(**sections, **{name: _value(value, name, hint, source, "") for name, hint in flat.items()})

    @classmethod
    def load(cls, path: str | Path) -> "Results":
        """Those of a file; `UserError` where it cannot be read or is not what a run writes."""
        try:
            value = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read as JSON ({error}); run pipeline.py to write it again.") from error
        return cls.from_json(value, path)


def _read(kind: Any, value: Any, source: str | Path, within: str = "") -> Any:
    """A `kind` from the keys of `value` that are its fields."""
    hints = get_type_hints(kind)
    optional = {part.name for part in fields(kind) if part.default_factory is not MISSING and part.name not in value}
    return kind(**{name: _value(value, name, hints[name], source, within) for name in hints if name not in optional})


def _value(value: Any, name: str, hint: Any, source: str | Path, within: str) -> Any:
    key = f"{within}{name}"
    if not isinstance(value, dict) or name not in value:
        raise UserError(f"{source} has no key {key!r}; run pipeline.py to write it again.")
    if is_dataclass(hint):
        return _read(hint, value[name], source, f"{key}.")
    if not _fits(value[name], hint):
        wanted = getattr(hint, "__name__", hint)
        raise UserError(f"{source}: {key!r} must be {wanted}, not {value[name]!r:.40}; run pipeline.py again.")
    return value[name]


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is UnionType:
        return any(_fits(value, one) for one in get_args(hint))
    return isinstance(value, (int, float) if hint is float else hint) and not isinstance(value, bool)
