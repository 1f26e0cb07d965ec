"""Jobs: whether a call that fits its schema does what the request asked for; no model judges.

There is a rule for each of the project's own tools. Another tool's calls, and requests without a reference, are not
judged. `data/README.md` says how often the rules misjudge.
"""

import math
import re
from collections.abc import Callable

from asa.data.duplicates import text_words
from asa.data.references import Reference
from asa.data.requests import Request
from asa.evaluation.expressions import evaluate
from asa.evaluation.programs import run_python
from asa.tools.calls import ToolCall
from asa.tools.definitions import Tool

TOLERANCE = 1e-3  # relative, of an answer that is not whole
EXACT = 1e-9  # the same of a whole one: what arithmetic in floating point leaves
QUERY_WORDS = 20  # most words of a search query
_STOP_WORDS = frozenset(
    """a about again all am an and any anyone are as at be because been before but by can could did do does for from get
    give had has have he hello help her here hey hi his how i if im in into is it its just know let like look make many
    me more much my name need no not now of off on one only or our out please pls quick s she so some still t tell than
    that the their them then there they this those to up us very want was we were what when where which while who whom
    whose why will with would you your""".split()
)
_OTHER_NAMES = {  # of a language
    "mandarin": "chinese", "castilian": "spanish", "farsi": "persian", "filipino": "tagalog", "gaelic": "irish",
    "māori": "maori", "bahasa": "indonesian", "en": "english", "es": "spanish", "fr": "french",
    "de": "german", "it": "italian", "pt": "portuguese", "ja": "japanese", "zh": "chinese", "ko": "korean",
}  # fmt: skip
_FRAMES = re.compile(
    """[][(){}'"\u201c\u201d\u2018\u2019`,;:|]"""
)  # what a program may put around and between what it prints


def does_job(
    call: ToolCall | None, request: Request, tool: Tool | None, reference: Reference | None, run_code: bool = False
) -> bool | None:
    """Whether a call does the job of a request.

    Args:
        call: A call of `tool` that fits its schema; None where the model made no such call.
        request: What was asked.
        tool: The tool of the request's domain.
        reference: Of the request.
        run_code: Whether Python calls are run (`programs`); without it they are not judged.

    Returns:
        None where no call for this request can be judged.
    """
    if tool is None or tool.name not in RULES:
        return None
    names, judge, needs = RULES[tool.name]
    if set(tool.parameters.get("properties", {})) != set(names):
        return None  # another's tool of that name
    if needs and not (reference and getattr(reference, needs)):
        return None
    if needs == "outputs" and not run_code:
        return None
    said = [] if call is None else [call.arguments.get(name) for name in names]
    if not said or not all(isinstance(argument, str) for argument in said):
        return False  # another's schema may leave one out, or take a number
    return judge(request, reference, *said)


def calculates(request: Request, reference: Reference, expression: str) -> bool:
    """Whether an expression gives one of the reference's answers.

    A whole answer must be met exactly, any other to `TOLERANCE`, so that 3.14 will do for pi.
    """
    found = evaluate(expression)
    return found is not None and any(
        math.isclose(found, answer, rel_tol=EXACT if isinstance(answer, int) else TOLERANCE, abs_tol=1e-15)
        for answer in reference.answers
    )


def translates(request: Request, reference: Reference, text: str, target_language: str) -> bool:
    """Whether a text is the one to be translated, and the language the one asked for.

    The same words in the same order are the same text: case, punctuation, quotes, white space and what joins the
    last item of a list do not count. A language may be named more or less closely: Chinese for Mandarin Chinese.
    """
    same = any(_plain_words(text) == _plain_words(request.text[start:end]) for start, end in reference.spans)
    target = _language(target_language)
    allowed = [_language(name) for name in reference.languages]
    return same and bool(target) and (not allowed or any(target <= name or name <= target for name in allowed))


def prints(request: Request, reference: Reference, code: str) -> bool:
    """Whether a program prints one of the reference's outputs.

    Brackets, quotes, commas, colons and white space do not count; what stands between them must, in order.
    """
    printed = run_python(code)
    if printed is None:
        return False
    parts = f" {' '.join(_FRAMES.sub(' ', printed).split())} "
    return any(f" {' '.join(_FRAMES.sub(' ', output).split())} " in parts for output in reference.outputs)


def searches(request: Request, reference: Reference | None, query: str) -> bool:
    """Whether a query has half of the request's content words, and `QUERY_WORDS` words at most."""
    words = text_words(query)
    wanted = {word for word in text_words(request.text) if word not in _STOP_WORDS}
    return 0 < len(words) <= QUERY_WORDS and 2 * len(wanted.intersection(words)) >= len(wanted) > 0


RULES: dict[str, tuple[tuple[str, ...], Callable[..., bool], str]] = {  # tool -> its arguments, the rule, what it needs
    "calculator": (("expression",), calculates, "answers"),
    "python_interpreter": (("code",), prints, "outputs"),
    "web_search": (("query",), searches, ""),
    "translator": (("text", "target_language"), translates, "spans"),
}


def _plain_words(text: str) -> list[str]:
    words = re.findall(r"[^\W_]+", re.sub("['\u2018\u2019`]", "", text).casefold())
    return [word for word in words if word != "and"]


def _language(name: str) -> set[str]:
    return {_OTHER_NAMES.get(word, word) for word in _plain_words(name)} - {"language"}
