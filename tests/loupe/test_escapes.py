"""Texts of strangers: nothing of them steers a terminal, and none is longer than it may be."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loupe.escapes import escaped


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x9b2J", r"\x9b2J"),
        ("left\u202eright", r"left\u202eright"),
        ("\u2028\ufeff\U000e0041", r"\u2028\ufeff\U000e0041"),
        ("\ud800", r"\ud800"),
        ("零件 größe नी\u200dक", "零件 größe नी\u200dक"),
    ],
)
def test_what_steers_a_terminal_is_written_out(text: str, shown: str) -> None:
    """Control characters, direction, halves of pairs; scripts and their joiners stay."""
    assert escaped(text, 100) == shown


@given(st.text(), st.integers(4, 50), st.integers(4, 50))
def test_the_bounds_hold_for_every_text(text: str, most: int, most_bytes: int) -> None:
    """By characters and by bytes, and escaping again changes nothing."""
    shown = escaped(text, most, most_bytes)
    assert len(shown) <= most and len(shown.encode()) <= most_bytes
    assert escaped(shown, most, most_bytes) == shown
    assert not any(unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") for each in shown)
