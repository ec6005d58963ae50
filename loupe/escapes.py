r"""Texts that somebody else chose, made harmless for whoever reads them: what would steer a terminal is shown.

>>> escaped("ok\x1b[2J", 100), escaped("part\n2", 100), escaped("a\u202eb", 100), escaped("a long one", 8)
('ok\\x1b[2J', 'part\\n2', 'a\\u202eb', 'a long …')
"""

from __future__ import annotations

import re

# Control characters of both sets, what hides or reorders text, line separators, halves of pairs, tags. Joiners, which
# some scripts need, are not among them.
STEERING = (
    "\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f"
)
"""What is between the brackets of a regular expression that finds one of them."""
_ANY = re.compile(f"[{STEERING}]")
_MORE = "…"


def escaped(text: str, most: int, most_bytes: int | None = None) -> str:
    """Return a text as one line without anything that steers a terminal, cut at so many characters and UTF-8 bytes.

    It costs as much as what is kept, however long the text is; a text that was escaped before stays as it is.
    """
    text = _ANY.sub(shown, text[: most + 1])
    if len(text) > most:
        text = text[: most - 1] + _MORE
    return text if most_bytes is None else cut(text, most_bytes)


def cut(text: str, most_bytes: int) -> str:
    """Return a text, or as much of its beginning as fits into so many UTF-8 bytes with a mark of the cut.

    >>> cut("a long one", 8), cut("ein Würfel", 9)
    ('a lon…', 'ein W…')
    """
    encoded = text[: most_bytes + 1].encode(errors="backslashreplace")
    if len(encoded) <= most_bytes:
        return text
    return encoded[: max(0, most_bytes - len(_MORE.encode()))].decode(errors="ignore") + _MORE


def shown(match: re.Match[str]) -> str:
    """Return what was found as Python would write it."""
    return match[0].encode("unicode_escape", "surrogatepass").decode("ascii")
