"""Names of classes: any script, and nothing in them that a person cannot see."""

from __future__ import annotations

import functools
import unicodedata

MAX_LENGTH = 128
RULE = (
    f"1 to {MAX_LENGTH} characters of any script, no control or invisible characters, no space at the beginning or end"
)

_CONTROL = ("Cc", "Cs", "Co", "Cn", "Zl", "Zp")
# These format characters reorder or hide what a person reads; joiners, which some scripts need, are not among them.
_HIDING = frozenset("\u200b\u2060\ufeff\u00ad\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@functools.lru_cache(maxsize=4096)  # there are many pictures of a class, and each says its name
def normalise_label(label: str) -> str:
    """Return a label in Unicode's NFC: the same name typed on two systems is one class.

    Raises ValueError, which says what is wrong, unless it keeps to RULE.

    >>> normalise_label("gro" + "\\u0308" + "ße") == "größe"
    True
    """
    label = unicodedata.normalize("NFC", label)
    if not label.strip():
        raise ValueError("is empty")
    if label != label.strip():
        raise ValueError("begins or ends with a space")
    if len(label) > MAX_LENGTH:
        raise ValueError(f"has {len(label)} characters")
    if not all(map(is_visible, label)):
        raise ValueError("has a control or invisible character, or bytes that are not UTF-8")
    return label


def is_visible(character: str) -> bool:
    """Return whether a character neither controls a terminal nor hides or reorders what a person reads."""
    return unicodedata.category(character) not in _CONTROL and character not in _HIDING
