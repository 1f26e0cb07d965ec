"""Near-duplicates: requests that say the same in other words, whatever their script.

Word sets are compared; a script without spaces gives characters in place of words. Nothing is dropped or dealt here.
"""

import re

import numpy as np
from scipy.sparse import csr_matrix, vstack
from scipy.sparse.csgraph import connected_components
from sklearn.feature_extraction.text import CountVectorizer

from asa.data.requests import Request

NEAR_DUPLICATE = 0.7  # Jaccard similarity of the word sets
ROWS = 256  # texts compared with all others at once
NEAR_DUPLICATE_DENSE = 0.45  # the same for texts in dense scripts: a place name is a larger part of a request there
_HAN = r"\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_HIRAGANA = r"\u3041-\u309f"
_KATAKANA = r"\u30a1-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_LETTERS_UNSPACED = (  # Thai, Lao, Tibetan, Burmese; Khmer; Tai Le to Khmer symbols; Tai Tham; Balinese; Javanese, Cham
    r"\u0e00-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u1b00-\u1b7f\ua980-\uaadf"
)
_UNSPACED = _HAN + _HIRAGANA + _KATAKANA + _LETTERS_UNSPACED
_PIECE = re.compile(rf"[{_HAN}]|[{_HIRAGANA}]+|[{_KATAKANA}]+|[{_LETTERS_UNSPACED}]+|(?:(?![{_UNSPACED}])\w)+")
_HANGUL = r"\u1100-\u11ff\uac00-\ud7a3"  # has spaces, but a word carries its particle: few words a request
_DENSE = re.compile(rf"[{_UNSPACED}{_HANGUL}]")


def apart_from(texts: list[str], requests: list[Request]) -> list[Request]:
    """Those of `requests` that are linked by near-duplicates to none of `texts`, in their order."""
    groups = near_duplicate_groups([*texts, *(request.text for request in requests)])
    near = {row for group in groups if group[0] < len(texts) for row in group}
    return [request for row, request in enumerate(requests, len(texts)) if row not in near]


def near_duplicate_groups(texts: list[str]) -> list[list[int]]:
    """Indices of `texts` in groups that are linked by near-duplicates.

    Two texts are near-duplicates where the Jaccard similarity of their words (`text_words`) is above `NEAR_DUPLICATE`,
    or above `NEAR_DUPLICATE_DENSE` where most words of both are in scripts without spaces or in Hangul.

    >>> near_duplicate_groups(["a red big cat", "why", "a RED big cat!"])
    [[0, 2], [1]]
    """
    if not texts:
        return []
    counter = CountVectorizer(binary=True, analyzer=text_words)
    words = counter.fit_transform(texts).astype(np.float32)
    sizes = np.asarray(words.sum(axis=1)).ravel()
    dense_words = np.array([bool(_DENSE.match(word)) for word in counter.get_feature_names_out()], np.float32)
    dense = words @ dense_words > sizes / 2
    linked = []
    for start in range(0, len(texts), ROWS):  # all pairs at once would take the square of the texts in memory
        rows = slice(start, start + ROWS)
        common = (words[rows] @ words.T).toarray()
        limit = np.where(dense[rows, None] & dense, np.float32(NEAR_DUPLICATE_DENSE), np.float32(NEAR_DUPLICATE))
        linked.append(csr_matrix(common > limit * (sizes[rows, None] + sizes - common)))
    _, group_of = connected_components(vstack(linked), directed=False)
    groups: dict[int, list[int]] = {}
    for row, group in enumerate(group_of.tolist()):
        groups.setdefault(group, []).append(row)
    return list(groups.values())


def text_words(text: str) -> list[str]:
    """The words of a text, lower-case; scripts without spaces give what comes nearest to words.

    A Han character is one. A run of kana beside Han characters is one, since the script changes where a word ends.
    Letters of other such scripts, and kana alone, give all pairs of neighbours. A text without any word is one.

    >>> text_words("Is 東京タワー open?"), text_words("のてん")
    (['is', '東', '京', 'タワー', 'open'], ['のて', 'てん'])
    """
    text = text.lower()
    pieces = _PIECE.findall(text) or [text]
    paired = _LETTERS_UNSPACED + (_HIRAGANA + _KATAKANA) * (not re.search(f"[{_HAN}]", text))
    words = []
    for piece in pieces:
        if len(piece) > 2 and re.match(f"[{paired}]", piece):
            words += [piece[place : place + 2] for place in range(len(piece) - 1)]
        else:
            words.append(piece)
    return words
