"""Threads: how many of them scikit-learn's products take. Nothing here touches torch, which has threads of its own."""

import contextlib
from collections.abc import Iterator

from threadpoolctl import threadpool_limits


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Have BLAS work on one thread, inside a `with` or as a decorator.

    The products behind a fit of readers are so small that threads wait for each other longer than they help.
    """
    with threadpool_limits(1, user_api="blas"):
        yield
