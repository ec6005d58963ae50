"""Labels and a note: what people say of a job, to find it and to explain it. They change nothing about its training."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from loupe.errors import invalid
from loupe.escapes import STEERING
from loupe.labels import is_visible

MAX_LABELS = 64
MAX_VALUE = 63
MAX_NOTE = 2_000

_KEY = re.compile(r"[a-z][a-z0-9_.-]{0,62}")
_STEERING = re.compile(f"[{STEERING}]")


@dataclass(frozen=True)
class Annotation:
    """What changes; None leaves the labels, or the note, as they are."""

    labels: Mapping[str, str] | None = None
    note: str | None = None

    def checked(self) -> Annotation:
        """Return it as it is kept. Raises InvalidArgument."""
        return Annotation(
            labels=None if self.labels is None else check_labels("training_job.labels", self.labels),
            note=None if self.note is None else check_note("training_job.note", self.note),
        )


def check_labels(field: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Return labels with their values in Unicode's NFC, so that one typed on two systems is one label.

    Raises InvalidArgument for the first that is none, and for too many.

    >>> check_labels("labels", {"line": "7"})
    {'line': '7'}
    """
    if len(labels) > MAX_LABELS:
        raise invalid(field, f"{len(labels)} labels", f"at most {MAX_LABELS}")
    return {_check_key(field, key): _check_value(f"{field}[{key}]", value) for key, value in sorted(labels.items())}


def check_note(field: str, note: str) -> str:
    """Return a note, or raise InvalidArgument."""
    if len(note) > MAX_NOTE:
        raise invalid(field, note, f"at most {MAX_NOTE:,} characters; it has {len(note):,}")
    if (found := _STEERING.search(note)) is not None:
        expected = f"one line without control or bidirectional characters; it has U+{ord(found[0]):04X}"
        raise invalid(field, note, expected)
    return note


def _check_key(field: str, key: str) -> str:
    if not _KEY.fullmatch(key):
        expected = "keys of a lower-case letter, then up to 62 letters, digits, underscores, full stops or hyphens"
        raise invalid(field, key, expected)
    return key


def _check_value(field: str, value: str) -> str:
    value = unicodedata.normalize("NFC", value)
    if len(value) > MAX_VALUE or _STEERING.search(value) or not all(map(is_visible, value)):
        raise invalid(field, value, f"at most {MAX_VALUE} visible characters")
    return value
