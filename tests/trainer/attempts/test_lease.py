"""A lease: hold, stop, kill, before its end."""

from __future__ import annotations

import pytest

from loupe.errors import InvalidArgument
from services.trainer.attempts.lease import Lease, Verdict


def test_a_lease_ends_before_its_end() -> None:
    """Stop comes first, then kill, and kill well before whoever granted the lease counts it as over."""
    lease = Lease(100.0, 10.0)
    verdicts = [(seconds, lease.verdict(100.0 + seconds)) for seconds in (0, 6.4, 6.6, 8.4, 8.6, 60)]
    assert [verdict.name for _, verdict in verdicts] == ["HOLD", "HOLD", "STOP", "STOP", "KILL", "KILL"]
    assert lease.kill_at <= 100.0 + 9.0
    assert Lease(100.0, 10.0).verdict(99.0) is Verdict.HOLD


@pytest.mark.parametrize("seconds", [0, -1, 0.5, 1e9, float("nan")])
def test_a_lease_that_makes_no_sense_is_refused(seconds: float) -> None:
    with pytest.raises(InvalidArgument, match="lease"):
        Lease(0.0, seconds)
