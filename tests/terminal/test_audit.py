"""`loupe audit`: three logs as one, newest first; a service that is away is told of, a refusal is an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from loupe.common.v1 import audit_pb2
from loupe.common.v1 import audit_service_pb2 as rpc
from loupe.errors import InvalidArgument, LoupeError, PermissionDenied, Unavailable
from loupe.terminal.audit import Audit, moment
from loupe.terminal.connection import Connection
from tests.terminal.fake_mesh import FakeMesh

LINE = "projects/line-7"


def entry(seconds: int, method: str = "CreateDataset", **fields: Any) -> audit_pb2.AuditEntry:
    values = {"caller": "accounts/anna", "resource": LINE, "project": LINE, "outcome": "OK", "peer": "ipv4:10.0.3.7"}
    return audit_pb2.AuditEntry(time={"seconds": seconds}, method=method, **(values | fields))


class Logs:
    """What the three services answer, in pages of two; or their error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: dict[str, list[audit_pb2.AuditEntry] | LoupeError] = {"auth": [], "storage": [], "scheduler": []}
        self.asked: list[rpc.ListAuditEntriesRequest] = []
        logs = self

        async def call(service: Any, _method: object, request: rpc.ListAuditEntriesRequest, **_: object) -> Any:
            rows = logs.rows[service._name]
            if isinstance(rows, LoupeError):
                raise rows
            kept = rpc.ListAuditEntriesRequest()
            kept.CopyFrom(request)
            logs.asked.append(kept)
            start = int(request.page_token or 0)
            more = str(start + 2) if start + 2 < len(rows) else ""
            return rpc.ListAuditEntriesResponse(entries=rows[start : start + 2], next_page_token=more)

        monkeypatch.setattr("loupe.terminal.connection.Service.call", call)


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> Logs:
    return Logs(monkeypatch)


@pytest.fixture
def log() -> Audit:
    return Audit(Connection("127.0.0.1:1", b""))


async def test_three_logs_are_one_by_time(logs: Logs, log: Audit) -> None:
    """Over their pages, and no more than asked for."""
    logs.rows = {
        "auth": [entry(9), entry(6), entry(3)],
        "storage": [entry(8), entry(7), entry(1)],
        "scheduler": [entry(5), entry(4), entry(2)],
    }
    assert [row.time.seconds for row in (await log.newest(LINE)).entries] == list(range(9, 0, -1))
    assert [row.time.seconds for row in (await log.newest(LINE, limit=4)).entries] == [9, 8, 7, 6]


async def test_what_is_wanted_is_asked_of_every_service(logs: Logs, log: Audit) -> None:
    """Project, caller, action and times."""
    since = datetime(2026, 5, 4, tzinfo=UTC)
    await log.newest(LINE, caller="accounts/bob", action="datasets", since=since, until=since, limit=7)
    assert len(logs.asked) == 3
    for request in logs.asked:
        assert (request.parent, request.caller, request.action_prefix) == (LINE, "accounts/bob", "datasets")
        assert request.since.ToDatetime(UTC) == request.until.ToDatetime(UTC) == since and request.page_size == 7


async def test_a_service_that_is_away_is_named_and_a_refusal_is_raised(logs: Logs, log: Audit) -> None:
    """Where all are away there is nothing to show."""
    logs.rows |= {"auth": [entry(1)], "storage": Unavailable("storage is away", dependency="storage")}
    rows = await log.newest(LINE)
    assert [row.time.seconds for row in rows.entries] == [1] and list(rows.away) == ["storage"]
    logs.rows["scheduler"] = PermissionDenied("no", action="audit.read")
    with pytest.raises(PermissionDenied):
        await log.newest(LINE)
    logs.rows = dict.fromkeys(logs.rows, Unavailable("away", dependency="auth"))
    with pytest.raises(Unavailable):
        await log.newest(LINE)


def test_the_table_fits_80_columns_and_steers_no_terminal(logs: Logs, command_line: Callable[..., Any]) -> None:
    """Names that are long lose their middle; what somebody typed is shown, not done."""
    logs.rows["storage"] = [
        entry(1_790_000_000, "CreateDatasetVersion", resource=f"{LINE}/datasets/{'x' * 60}", summary="a" * 240),
        entry(1_780_000_000, outcome="FAILED_PRECONDITION", caller=f"{LINE}/jobs/{'y' * 60}", summary="\x1b[2J零件"),
        entry(1_770_000_000, caller="services/scheduler", method="PublishModelVersion", peer="ipv6:2001:db8::/64"),
        entry(
            1_760_000_000,
            "",
            outcome="LEFT_OUT",
            resource="",
            summary="980 failed calls, since 2026-05-04 10:00:00 UTC",
        ),
    ]
    done = command_line("audit", "--project", "line-7", COLUMNS="80")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80 and "\x1b" not in done.stdout
    assert "when" in done.stdout and "failed" in done.stdout and "10.0.3.7" in done.stdout
    assert len(lines) < 20, "a table, not a block for each row"


def test_programs_get_everything(logs: Logs, command_line: Callable[..., Any]) -> None:
    """Also what is missing, with the exit code of something that is away."""
    logs.rows |= {"auth": [entry(1_790_000_000)], "scheduler": Unavailable("it is away", dependency="scheduler")}
    done = command_line("audit", "--json", "-p", "line-7", "--account", "bob", "--since", "2h", "--action", "datasets")
    answer = json.loads(done.stdout)
    assert done.exit_code == 7 and answer["away"] == {"scheduler": "it is away"}
    assert answer["entries"][0]["caller"] == "accounts/anna"
    assert logs.asked[0].caller == "accounts/bob" and logs.asked[0].HasField("since")
    told = command_line("audit", "-p", "line-7")
    assert told.exit_code == 7 and "rows of scheduler are missing: it is away" in told.stderr


def test_a_refusal_says_what_it_takes(logs: Logs, command_line: Callable[..., Any]) -> None:
    """As everywhere: exit code 5, and whom to ask."""
    metadata = {"action": "audit.read", "project": LINE, "parameter": 10, "threshold": 40}
    logs.rows = dict.fromkeys(logs.rows, PermissionDenied("accounts/anna may not do audit.read", **metadata))
    done = command_line("audit", "-p", "line-7")
    assert done.exit_code == 5 and "40 or more" in " ".join(done.stderr.split())


def test_a_mesh_without_the_log_says_so(mesh: FakeMesh, command_line: Callable[..., Any]) -> None:
    """One that is older than this terminal does not know the call."""
    command_line("login", "anna")
    done = command_line("audit", "-p", "line-7")
    assert done.exit_code in (5, 7) and "Traceback" not in done.output


@pytest.mark.parametrize("text", ["yesterday", "2h ago", "-2h", "2y", "", "999999w", "2026-13-01", "0x1h", "٣h\x00"])
def test_a_time_that_is_none_is_refused(text: str) -> None:
    """With what would be right."""
    with pytest.raises(InvalidArgument) as caught:
        moment("since", text, datetime.now(UTC))
    assert caught.value.field == "since"
