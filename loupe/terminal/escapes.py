r"""Texts that somebody else chose, made harmless for a person's terminal: what would steer it is shown, not sent.

Reports, labels, log lines, verdicts and file names come from programs and people that this terminal does not know. Sent
as they are, they could move the cursor, rename the window or turn a line round. Every printer passes them through here.

    >>> escaped("ok\x1b[2J"), escaped("part\n2"), escaped("a\u202eb")
    ('ok\\x1b[2J', 'part\\n2', 'a\\u202eb')
"""

from __future__ import annotations

import json
import re

from loupe.escapes import STEERING, shown

LONGEST_LINE = 500
"""The characters of a text that is to stay on one line."""
LONGEST_TEXT = 4_000
"""The characters of a text that may have lines."""
MOST_LINES = 40

_ANY = re.compile(f"[{STEERING}]")
_NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
_ANY_BUT_NEWLINE = re.compile(rf"(?!\n)[{STEERING}]")


def escaped(text: object, longest: int = LONGEST_LINE) -> str:
    """Return a text as one line without anything that steers a terminal, cut at `longest` characters."""
    return _cut(_ANY.sub(shown, _bounded(text, longest)), longest)


def escaped_lines(text: object, longest: int = LONGEST_TEXT) -> str:
    """Return a text whose lines stay lines, MOST_LINES at most, with everything else as in `escaped`."""
    lines = _bounded(text, longest).splitlines()
    kept = [_ANY.sub(shown, line) for line in lines[:MOST_LINES]]
    return _cut("\n".join(kept if len(lines) <= MOST_LINES else [*kept, "…"]), longest)


def blanked(text: str) -> str:
    """Replace each steering character except the newline by one column, for text that is laid out already."""
    return _ANY_BUT_NEWLINE.sub("\ufffd", text)


def escaped_json(text: str) -> str:
    r"""Return the same JSON, with the steering characters that JSON lets through written as \u escapes.

    >>> escaped_json('{"label": "\x9b2J"}')
    '{"label": "\\u009b2J"}'
    """
    return _ANY_BUT_NEWLINE.sub(lambda match: json.dumps(match[0])[1:-1], text)


def decoded(name: str) -> str:
    r"""Return a file name as text that can travel: UTF-8 whatever the locale, other bytes as \xNN.

    >>> decoded("pr\udcfcf.png"), decoded("pr\udcc3\udcbcf.png")
    ('pr\\xfcf.png', 'prüf.png')
    """
    if name.isascii() or not any("\ud800" <= each <= "\udfff" for each in name):
        return name
    # U+DC80 to U+DCFF stand for single bytes; another half of a pair is no byte and is shown as it is.
    bytes_only = _NO_BYTE.sub(shown, name)
    return bytes_only.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _bounded(text: object, longest: int) -> str:
    """Look at no more of a text than can be shown."""
    return (text if isinstance(text, str) else str(text))[: longest + 1]


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
