"""Numbers: what JSON writes for integers and numbers between two bounds.

A number between bounds is a choice over its digits, from the first: a digit above the lower bound's frees those
behind it, an equal one leaves them bound. Nothing is longer than what a double or a 64-bit integer needs, so that no
number goes on and on.
"""

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from asa.languages.trees import (
    EMPTY,
    NOTHING,
    Language,
    Letters,
    Text,
    choice,
    letters,
    optional,
    repeat,
    sequence,
)

MOST_DIGITS = 20  # before the point, and behind it
DIGIT = letters("0123456789")
_TINY = Decimal("1e-4")  # what is smaller than this, Python writes with an exponent


@dataclass(frozen=True)
class Bound:
    """A bound of a number; `open` if the bound itself is outside."""

    value: Decimal
    open: bool = False


def integers(low: int | None = None, high: int | None = None) -> Language:
    """Integers from `low` to `high`, both included.

    >>> from asa.languages.reading import after_text, ends, shortest
    >>> small = integers(-3, 120)
    >>> [ends(after_text(small, text)) for text in ("-3", "-4", "0", "99", "120", "121", "07")]
    [True, False, True, True, True, False, False]
    """
    if low is None and high is None:
        return sequence(optional(Text("-")), choice([Text("0"), _natural(1, MOST_DIGITS)]))
    most = 10**MOST_DIGITS - 1
    low = min(-most, high or 0) if low is None else low
    high = max(most, low) if high is None else high
    ways = [] if low >= 0 else [sequence(Text("-"), _naturals(max(1, -high), -low))]
    return choice([*ways, _naturals(max(0, low), high)])


def numbers(low: Bound | None = None, high: Bound | None = None) -> Language:
    """Decimal numbers between two bounds.

    A number with bounds may have an exponent only where Python writes one: nearer to 0 than 1e-4, if all such are
    inside, or further from 0 than 1e16, if there is no bound on that side.
    """
    mantissa = sequence(letters("123456789"), optional(sequence(Text("."), repeat(DIGIT, 1, 16))))
    if low is None and high is None:
        whole = choice([Text("0"), _natural(1, MOST_DIGITS)])
        tail = sequence(letters("eE"), _exponent())
        plain = sequence(whole, optional(_fraction()))
        return sequence(optional(Text("-")), choice([plain, sequence(mantissa, tail), Text("5e-324")]))
    ways = [_between(low, high), sequence(Text("-"), _between(_mirrored(high), _mirrored(low)))]
    for sign, bottom, top in (("", low, high), ("-", _mirrored(high), _mirrored(low))):
        if (bottom is None or bottom.value <= 0) and (top is None or top.value >= _TINY):
            ways += [sequence(Text(sign), mantissa, Text("e-"), _small()), Text(f"{sign}5e-324")]
        if top is None and (bottom is None or bottom.value <= Decimal("1e16")):
            ways.append(sequence(Text(sign), mantissa, Text("e+"), _large()))
    return choice(ways)


def _mirrored(bound: Bound | None) -> Bound | None:
    return None if bound is None else Bound(-bound.value, bound.open)


def _exponent() -> Language:
    """Exponents that lead to no infinity."""
    return choice([sequence(optional(Text("+")), choice([_large(), repeat(DIGIT, 1, 2)])), sequence(Text("-"), choice(
        [_small(), repeat(DIGIT, 1, 2)]))])  # fmt: skip


def _large() -> Language:
    """Exponents from 16 to 307."""
    return _naturals(16, 307)


def _small() -> Language:
    """Exponents from 5 to 323, in two digits at least."""
    return choice([sequence(Text("0"), letters("56789")), _naturals(10, 323)])


def _fraction() -> Language:
    return sequence(Text("."), repeat(DIGIT, 1, MOST_DIGITS))


def _natural(fewest: int, most: int) -> Language:
    """Numbers of so many digits, the first of them no 0."""
    return sequence(letters("123456789"), repeat(DIGIT, fewest - 1, most - 1))


def _naturals(low: int, high: int) -> Language:
    """Integers from `low`, at least 0, to `high`."""
    ways: list[Language] = []
    for digits in range(len(str(low)), len(str(high)) + 1 if high >= low else 0):
        first, last = max(low, 10 ** (digits - 1) if digits > 1 else 0), min(high, 10**digits - 1)
        ways.append(_same_length(str(first), str(last)))
    return choice(ways)


def _same_length(low: str, high: str) -> Language:
    """Digits from `low` to `high`, which are equally many."""
    if not low:
        return EMPTY
    if set(low) == {"0"} and set(high) == {"9"}:
        return repeat(DIGIT, len(low), len(low))
    if low[0] == high[0]:
        return sequence(Text(low[0]), _same_length(low[1:], high[1:]))
    rest = len(low) - 1
    ways = [
        sequence(Text(low[0]), _same_length(low[1:], "9" * rest)),
        sequence(_digits(int(low[0]) + 1, int(high[0]) - 1), repeat(DIGIT, rest, rest)),
        sequence(Text(high[0]), _same_length("0" * rest, high[1:])),
    ]
    return choice(ways)


def _digits(low: int, high: int) -> Language:
    """One digit from `low` to `high`; none if there is none."""
    return Letters(((48 + low, 48 + high),)) if low <= high else NOTHING


def _between(low: Bound | None, high: Bound | None) -> Language:
    """Numbers from 0 on, between two bounds, without an exponent."""
    if low is None or low.value < 0:
        low = Bound(Decimal(0))
    if high is None:
        high = Bound(max(Decimal(10) ** MOST_DIGITS, low.value + 1), True)
    if high.value < low.value:
        return NOTHING
    first, last = int(low.value.to_integral_value(ROUND_FLOOR)), int(high.value.to_integral_value(ROUND_FLOOR))
    least = first if first == low.value and not low.open else first + 1
    most = last - 1 if last == high.value and high.open else last
    ways = [_naturals(least, most)] if least <= most else []
    if first + 1 <= last - 1:
        ways.append(sequence(_naturals(first + 1, last - 1), _fraction()))
    above, below = _behind_the_point(low.value), _behind_the_point(high.value)
    if first == last:
        ways.append(sequence(Text(f"{first}."), _fractions(above, low.open, below, high.open)))
    else:
        ways.append(sequence(Text(f"{first}."), _fractions(above, low.open, None, True)))
        ways.append(sequence(Text(f"{last}."), _fractions("", False, below, high.open)))
    return choice(ways)


def _behind_the_point(value: Decimal) -> str:
    """Its digits there, without the last zeros."""
    text = f"{value - value.to_integral_value(ROUND_FLOOR):f}"
    return text.partition(".")[2].rstrip("0")


def _fractions(low: str, low_open: bool, high: str | None, high_open: bool, left: int = MOST_DIGITS) -> Language:
    """At least one digit behind the point, between those of `low` and of `high`; None: up to 1."""
    if high is None:
        return _from(low, low_open, left)
    if left == 0 or low > high:
        return NOTHING
    bottom, top = int(low[:1] or 0), int(high[:1] or 0)
    more = repeat(DIGIT, 0, left - 1)
    if bottom == top:
        if not low and not high:
            return NOTHING if low_open or high_open else repeat(Text("0"), 1, left)
        inner = _fractions(low[1:], low_open, high[1:], high_open, left - 1)
        alone = not low[1:] and not low_open and (high[1:] or not high_open)
        return sequence(Text(str(bottom)), optional(inner) if alone and inner != NOTHING else EMPTY if alone else inner)
    ways = [
        sequence(Text(str(bottom)), _rest_from(low[1:], low_open, left - 1)),
        sequence(_digits(bottom + 1, top - 1), more),
        sequence(Text(str(top)), _rest_to(high[1:], high_open, left - 1)),
    ]
    return choice(ways)


def _from(low: str, is_open: bool, left: int) -> Language:
    """At least one digit, not below `low`."""
    if left == 0:
        return NOTHING
    digit = int(low[:1] or 0)
    free = sequence(_digits(digit + 1, 9), repeat(DIGIT, 0, left - 1))
    return choice([free, sequence(Text(str(digit)), _rest_from(low[1:], is_open, left - 1))])


def _rest_from(low: str, is_open: bool, left: int) -> Language:
    """Further digits, or none, not below `low`."""
    if not low and not is_open:
        return repeat(DIGIT, 0, left)
    return _from(low, is_open, left)


def _rest_to(high: str, is_open: bool, left: int) -> Language:
    """Further digits, or none, not above `high`."""
    if not high:
        return NOTHING if is_open else repeat(Text("0"), 0, left)
    if left == 0:
        return EMPTY
    digit = int(high[0])
    free = sequence(_digits(0, digit - 1), repeat(DIGIT, 0, left - 1))
    return optional(choice([free, sequence(Text(high[0]), _rest_to(high[1:], is_open, left - 1))]))


def bounds(schema: dict) -> tuple[Bound | None, Bound | None]:
    """The lower and the upper bound of a JSON schema's number."""

    def tightest(plain: str, is_open: str, sign: int) -> Bound | None:
        found = [(plain, False), (is_open, True)]
        given = [Bound(Decimal(str(schema[key])), how) for key, how in found if key in schema]
        return max(given, key=lambda bound: (sign * bound.value, bound.open), default=None)

    return tightest("minimum", "exclusiveMinimum", 1), tightest("maximum", "exclusiveMaximum", -1)


def whole(low: Bound | None, high: Bound | None) -> tuple[int | None, int | None]:
    """The first and the last integer between two bounds."""
    first = None if low is None else int(low.value.to_integral_value(ROUND_CEILING))
    last = None if high is None else int(high.value.to_integral_value(ROUND_FLOOR))
    if low is not None and low.open and first == low.value:
        first = (first or 0) + 1
    if high is not None and high.open and last == high.value:
        last = (last or 0) - 1
    return first, last
