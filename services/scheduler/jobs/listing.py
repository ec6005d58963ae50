"""Listing jobs page by page, newest first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from loupe import paging
from loupe.errors import BadPageToken, invalid
from loupe.names import ProjectName
from loupe.timestamps import micros_of
from services.scheduler.jobs.annotations import check_labels
from services.scheduler.jobs.job import Job
from services.scheduler.jobs.states import State
from services.scheduler.jobs.store import JobStore


async def list_jobs(
    store: JobStore,
    project: ProjectName,
    states: Sequence[int],
    size: int,
    page_token: str,
    *,
    labels: Mapping[str, str] | None = None,
    show_deleted: bool = False,
) -> tuple[list[Job], str]:
    """Return a page and the next page's token, empty for the last. Raises InvalidArgument, BadPageToken.

    Jobs are in one of the states, or in any where there are none, and have all of the labels. show_deleted: those that
    can be restored are among them.
    """
    wanted = sorted(_state(number) for number in set(states))
    labelled = check_labels("labels", labels or {})
    scope = f"{project}/jobs?states={wanted}"
    if labelled:
        scope += f"&labels={json.dumps(labelled)}"
    if show_deleted:
        scope += "&deleted"
    after = _after(scope, page_token)
    jobs = await store.page(project, wanted, labelled, size + 1, after, show_deleted=show_deleted)
    if len(jobs) <= size:
        return jobs, ""
    last = jobs[size - 1]
    return jobs[:size], paging.encode(scope, [micros_of(last.create_time), last.uid])


def _state(number: int) -> State:
    try:
        return State(number)
    except ValueError:
        raise invalid("states", number, f"states from {int(min(State))} to {int(max(State))}") from None


def _after(scope: str, token: str) -> tuple[int, str] | None:
    match paging.decode(scope, token):
        case None:
            return None
        case [int(time), str(uid)]:
            return time, uid
    raise BadPageToken("page_token was not made by this list", page_token=token[:80])
