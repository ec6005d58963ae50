"""What labels and filenames may be."""

from __future__ import annotations

import unicodedata

from loupe import labels
from loupe.errors import invalid


def check_label(label: str) -> str:
    """Return a label in Unicode's composed form. Raises InvalidArgument when it breaks labels.RULE."""
    try:
        return labels.normalise_label(label)
    except ValueError as error:
        raise invalid("label", label, labels.RULE) from error


def check_filename(filename: str) -> str:
    """Return what the terminal called a picture. Raises InvalidArgument when it is no usable text."""
    if len(filename) > 1024 or any(unicodedata.category(each) in ("Cc", "Cs") for each in filename):
        raise invalid("filename", filename, "at most 1024 characters, no control characters")
    return filename
