"""What a label may be."""

from __future__ import annotations

import unicodedata

from loupe.errors import invalid

MAX_LENGTH = 128

_CONTROL = ("Cc", "Cs", "Co", "Cn", "Zl", "Zp")
# These format characters reorder or hide what a person reads; joiners, which some scripts need, are not among them.
_HIDING = frozenset("\u200b\u2060\ufeff\u00ad\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def normalise_label(label: str) -> str:
    """normalise_label returns a label in Unicode's NFC, so that one word typed in two ways is one class.

    Raises InvalidArgument unless it has 1 to 128 characters of any script, no control characters, no space at an end.
    """
    normal = unicodedata.normalize("NFC", label)
    bad = any(unicodedata.category(each) in _CONTROL or each in _HIDING for each in normal)
    if not 1 <= len(normal) <= MAX_LENGTH or bad or normal != normal.strip():
        raise invalid(
            "label",
            label,
            f"1 to {MAX_LENGTH} characters of any script, no control characters, no space at the beginning or end",
        )
    return normal


def check_filename(filename: str) -> str:
    """check_filename returns what the terminal called a picture; raises InvalidArgument when it is no usable text."""
    if len(filename) > 1024 or any(unicodedata.category(each) in ("Cc", "Cs") for each in filename):
        raise invalid("filename", filename, "at most 1024 characters, no control characters")
    return filename
