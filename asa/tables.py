"""Tables: rows of numbers as Markdown, and how a number looks in them."""


def markdown_table(heads: list[str], rows: list[list]) -> str:
    """A Markdown table; floats with three decimals, None as a dash.

    >>> print(markdown_table(["run", "F1"], [["baseline", 0.5], ["ASA", None]]))
    | run | F1 |
    |---|---|
    | baseline | 0.500 |
    | ASA | - |
    """

    def cell(value) -> str:
        return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join(lines + ["| " + " | ".join(map(cell, row)) + " |" for row in rows])


def with_interval(scores: dict, name: str) -> str:
    """A rate and its 95 % interval, e.g. `0.944 (0.925-0.961)`, from `trigger_metrics`; `0.000 (-)` without one."""
    interval = scores["intervals"][name]
    return f"{scores[name]:.3f} " + ("(-)" if interval is None else f"({interval[0]:.3f}-{interval[1]:.3f})")


def rate_with_interval(rate: dict) -> str:
    """The same of one rate from `evaluation.rate_of`; a dash where nothing was counted."""
    if rate["total"] == 0:
        return "-"
    low, high = rate["interval"]
    return f"{rate['rate']:.3f} ({low:.3f}-{high:.3f})"


def mean_and_deviation(of: dict) -> str:
    """Mean and standard deviation, e.g. `0.944 ± 0.012`."""
    return f"{of['mean']:.3f} ± {of['std']:.3f}"
