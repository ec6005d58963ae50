"""Page tokens: opaque to clients, bound to the list and filter that made them.

>>> token = encode("jobs of line-7", ["2026-05-04", 17])
>>> decode("jobs of line-7", token)
['2026-05-04', 17]
>>> decode("jobs of line-8", token)
Traceback (most recent call last):
loupe.errors.BadPageToken: page_token was not made by this list with this filter
"""

from __future__ import annotations

import base64
import hashlib
import json

from loupe.errors import BadPageToken, invalid

DEFAULT_SIZE = 50
MAX_SIZE = 1000


def page_size(requested: int) -> int:
    """Return the rows of a page: 0 means 50, more than 1000 means 1000; raises InvalidArgument below 0."""
    if requested < 0:
        raise invalid("page_size", requested, "0 or more")
    return min(requested or DEFAULT_SIZE, MAX_SIZE)


def _fingerprint(scope: str) -> str:
    return hashlib.sha256(scope.encode()).hexdigest()[:12]


def encode(scope: str, last: list[str | int]) -> str:
    """Make the token of the page after the row with sort key `last`; `scope` is the list and its filter."""
    body = json.dumps([_fingerprint(scope), last], separators=(",", ":"))
    return base64.urlsafe_b64encode(body.encode()).decode().rstrip("=")


def decode(scope: str, token: str) -> list[str | int] | None:
    """Return the sort key to go on after, None for the first page. Raises BadPageToken."""
    if not token:
        return None
    try:
        fingerprint, last = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        if fingerprint == _fingerprint(scope) and isinstance(last, list):
            return last
    except ValueError:
        pass
    raise BadPageToken("page_token was not made by this list with this filter", page_token=token[:80])
