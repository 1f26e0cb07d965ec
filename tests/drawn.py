"""What tests of figures share."""

import matplotlib as mpl
import pytest
from matplotlib import pyplot as plt


@pytest.fixture(autouse=True)
def drawn_to_files_only():
    """No window, and no figure left open for the next test."""
    before = mpl.get_backend()
    plt.switch_backend("Agg")
    yield
    plt.close("all")
    plt.switch_backend(before)


def assert_is_figure(path) -> None:
    """A PNG with something in it, and nothing else in its folder."""
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n") and len(content) > 5000
    assert list(path.parent.iterdir()) == [path]


def labels_of(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def line(axes, label: str):
    (found,) = [drawn for drawn in axes.get_lines() if drawn.get_label() == label]
    return found
