"""supervisord, told to look at its children five times a second, and to end with its caller where that is asked.

`python -m deploy.local.supervise CONFIGURATION [lifeline]`. With `lifeline` the end of standard input means that the
caller is gone, however it went, and everything is shut down.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from typing import Any

from supervisor import supervisord
from supervisor.options import ServerOptions

_LOOK_EVERY_SECONDS = 0.2


class _PromptPoller:
    """Supervisord's poller, but it returns early: only then does supervisord see who has ended."""

    def __init__(self, inner: Any, lifeline: bool) -> None:
        self._inner = inner
        self._lifeline = lifeline

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def poll(self, timeout: float) -> object:
        if self._lifeline and select.select([0], [], [], 0)[0]:
            self._lifeline = False
            os.kill(os.getpid(), signal.SIGTERM)
        return self._inner.poll(min(timeout, _LOOK_EVERY_SECONDS))


def main(configuration: str, *, lifeline: bool) -> None:
    """Run supervisord in the foreground with a configuration file until it is told to shut down."""
    options = ServerOptions()
    options.poller = _PromptPoller(options.poller, lifeline)
    options.first, options.test = True, False
    options.realize(["--nodaemon", "--configuration", configuration])
    supervisord.go(options)
    options.close_httpservers()
    options.close_logger()


if __name__ == "__main__":
    main(sys.argv[1], lifeline="lifeline" in sys.argv[2:])
