"""Whether this machine can run algorithm images in a sandbox."""

from __future__ import annotations

import os
import shutil
import subprocess

_TIMEOUT_SECONDS = 10


def sandbox_problem() -> str | None:
    """Return None where bubblewrap works; else one sentence that says what is wrong and how to mend it.

    That it is installed is not enough: containers and hardened kernels often refuse the namespaces it needs.
    """
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        return "bubblewrap is missing; install the package bubblewrap."
    # Without root it is the user namespace that gives the right to make the others.
    user = [] if os.getuid() == 0 else ["--unshare-user"]
    command = [bwrap, *user, "--unshare-pid", "--unshare-net", "--ro-bind", "/", "/", "--proc", "/proc", "true"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap does not run: {error}."
    if done.returncode == 0:
        return None
    said = done.stderr.strip().removeprefix("bwrap: ")
    return f"bubblewrap does not work here ({said}); allow this user or container to make namespaces."
