"""A collector that dies at a chosen commit: `python -m tests.auth.collection.mortal`.

It reads lines "when nth now url" and forks a process for each, which purges what is to be purged, or is killed before
or after its nth commit. Each line is answered by the signal that ended it, or 0.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys

from sqlalchemy.engine.default import DefaultDialect

from loupe import database
from services.auth.collection.collector import Collector
from services.auth.database.session import Database


async def live(url: str, now: float) -> None:
    """Do one pass."""
    await Collector(Database(database.create_engine(url), lambda: now), lambda: now).collect()


def die_at(when: str, nth: int) -> None:
    """Let this process be killed before or after its nth commit."""
    commit, numbers = DefaultDialect.do_commit, itertools.count(1)

    def do_commit(dialect: DefaultDialect, connection: object) -> None:
        last = next(numbers) == nth
        if not (last and when == "before"):
            commit(dialect, connection)  # type: ignore[arg-type]
        if last:
            os.kill(os.getpid(), signal.SIGKILL)

    DefaultDialect.do_commit = do_commit  # type: ignore[method-assign]


def main() -> None:
    """Fork a process for each line and print how it ended."""
    for line in sys.stdin:
        when, nth, now, url = line.split()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                die_at(when, int(nth))
                asyncio.run(live(url, float(now)))
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        print(os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
