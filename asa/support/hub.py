"""The hub: what an error of the Hugging Face hub means for the user.

Libraries wrap the hub's errors in their own, so the cause is looked for behind them. Three cases are told apart: no
hub, not allowed, not there. Nothing here loads torch or asks the hub.
"""

from collections.abc import Iterator
from textwrap import shorten

from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

SAID = 200  # characters of another library's message that are passed on

HTTP_ERROR = HfHubHTTPError.__bases__[0]  # of whichever HTTP library the hub's own is built on
LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


def hub_sentence(
    what: str, error: BaseException, revision: str = "main", instead: str = "", done: str = "loaded"
) -> str:
    """Why the hub did not give or take something, and what to do; "" where an error is none of the hub's.

    Args:
        what: The repository's id.
        error: What was raised, by the hub's library or by one that uses it.
        revision: What was asked for.
        instead: What else the user may do, as in "give a model folder".
        done: What was to be done with it, `loaded` or `pushed`.

    >>> hub_sentence("a/b", ConnectionError("refused"), instead="give a model folder")
    'a/b cannot be loaded: the hub does not answer and it is not in the cache; go online, or give a model folder.'
    >>> hub_sentence("a/b", KeyError("model_type"))
    ''
    """
    reason = _reason(list(_behind(error)), revision, pushed=done == "pushed")
    return f"{what} cannot be {done}: {reason}{f', or {instead}' if instead else ''}." if reason else ""


def _reason(errors: list[BaseException], revision: str, pushed: bool) -> str:
    """Cause and remedy; "" where it is none of the hub's."""

    def has(*kinds: type) -> bool:
        return any(isinstance(error, kinds) for error in errors)

    responses = [response for error in errors if (response := getattr(error, "response", None)) is not None]
    status = next((response.status_code for response in responses), 0)
    # datasets throws the hub's own error away and keeps its words
    lost = next((str(error) for error in errors if type(error).__name__ == "DatasetNotFoundError"), "")
    if has(GatedRepoError) or "gated" in lost:
        return f"the hub gives it to those who accept its terms; accept them on its page and {LOG_IN}"
    if has(RevisionNotFoundError) or lost.startswith("Revision"):
        return f"the hub has it, but no revision {revision!r} of it; correct the revision"
    if has(HFValidationError):
        return "it is neither a folder nor a hub id such as owner/name; correct it"
    if has(DisabledRepoError):
        return "the hub has disabled it; choose another one"
    if status == 401 and pushed:
        return f"the hub does not know who you are; {LOG_IN} with a token that may write"
    if status == 401 or (lost and not status):
        return f"the hub has no such repository, or it is private; check the id, and if it is private {LOG_IN}"
    if status == 403 and pushed:
        return f"the hub does not let you write there; check the id, or {LOG_IN} with a token that may write"
    if status == 403:
        return f"the hub does not let you read it; ask its owner for access and {LOG_IN}"
    if has(RepositoryNotFoundError) or status in (404, 410):
        return "the hub has no such repository; check the id"
    if status == 429 or status >= 500:
        return f"the hub is in trouble (it answers {status}); try again later"
    if status:
        return f"the hub does not {'take' if pushed else 'give'} it (it answers {status}); check HF_ENDPOINT"
    if has(HTTP_ERROR, TimeoutError, ConnectionResetError) and not has(LocalEntryNotFoundError):
        return "the connection to the hub broke off; start again" + ("" if pushed else ", what has arrived is kept")
    if has(LocalEntryNotFoundError, ConnectionError):
        return f"the hub does not answer{'' if pushed else ' and it is not in the cache'}; go online"
    return ""


def _behind(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all that led to it, the nearest first."""
    queue, seen = [error], set()
    for error in queue:  # grows while it is read
        if error is not None and id(error) not in seen:
            seen.add(id(error))
            queue += [error.__cause__, error.__context__]
            yield error


def said_by(error: BaseException) -> str:
    """What an error says, as far as its first sentence goes.

    >>> said_by(ValueError("No weights are there. See the manual."))
    'ValueError: No weights are there'
    """
    said = " ".join(f"{type(error).__name__}: {error}".split()).split(". ")[0]
    return shorten(said, SAID, placeholder=" ...").rstrip(".")
