"""The decisions that the plugin logs, for the tests beside this file: `pytest -p logged_decisions`."""

import logging
from collections.abc import Iterator

import pytest


class Lines(logging.Handler):
    """Takes the lines of `vllm.asa`.

    Attributes:
        decisions: (request id, decision) of each.
    """

    def __init__(self):
        super().__init__()
        self.decisions: list = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line's decision."""
        self.decisions.append(record.args)


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What is logged during a test."""
    handler, logger = Lines(), logging.getLogger("vllm.asa")
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)
