"""Leases on an injected clock: when to renew, when to stop renewing, when to give work away."""

from __future__ import annotations

from services.scheduler.dispatch.lease import LeaseClock


def test_work_is_given_away_no_earlier_than_twice_the_lease() -> None:
    """Counted from the last answer."""
    lease = LeaseClock(10.0, 0.0)
    lease.renewed(5.0)
    for now in range(5, 25):
        lease.tick(now)
        assert not lease.may_give_away(now)
    lease.tick(25.0)
    assert lease.may_give_away(25.0)


def test_no_renewal_is_sent_that_could_outlive_the_wait() -> None:
    """The last renewal arrives before the lease after the last answer; a lease later is when work may be given away."""
    lease = LeaseClock(10.0, 0.0)
    sent_at = [now / 10 for now in range(300) if lease.timeout(now / 10) > 0]
    latest_arrival = max(now + lease.timeout(now) for now in sent_at)
    assert latest_arrival + 10.0 <= 20.0


def test_a_renewal_that_hangs_leaves_time_for_another() -> None:
    """A trainer winds up at 0.65 of its lease."""
    lease = LeaseClock(10.0, 0.0)
    assert lease.interval + lease.timeout(lease.interval) + lease.retry_interval < 6.5


def test_a_process_that_was_stopped_starts_its_clock_anew() -> None:
    """Woken after a long stop, it does not know who renewed meanwhile."""
    lease = LeaseClock(10.0, 0.0)
    lease.tick(1.0)
    lease.tick(100.0)
    assert not lease.may_give_away(100.0)
    for now in range(101, 120):
        lease.tick(now)
        assert not lease.may_give_away(now)
    lease.tick(120.0)
    assert lease.may_give_away(120.0)
