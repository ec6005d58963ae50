"""The program that inspects pictures, in a process of its own: the bytes come from strangers.

It reads pictures from its standard input and answers each on its standard output; on READY it is about to begin. What
comes back is read field by field, never unpickled: a decoder that was taken over says no more than this.

    request  seconds of CPU f64, size u32, bytes
    answer   WHOLE u8, frames u32, white f64 (0: samples of 8 bits), whether the file told it u8, width u32, height u32,
             264 u32, perceptual hash (8 bytes) and thumbnail (256 bytes),
             or BROKEN u8, 1 u32, 0 f64, 0 u8, 0 u32, 0 u32, size u32, why
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys
from typing import BinaryIO

REQUEST = struct.Struct(">dI")
ANSWER = struct.Struct(">BIdBIII")
READY = b"\1"
WHOLE, BROKEN = 0, 1
HASH_BYTES = 8
MAX_REASON_BYTES = 1_000

_PR_SET_PDEATHSIG = 1
_MOST_MEMORY = 4 << 30


def _prepare(parent: int, nice: int) -> None:
    # A parent that is killed cannot end its decoders, and they would wait for work for ever.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    os.nice(nice)
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(parent: int, nice: int, requests: BinaryIO, answers: BinaryIO) -> None:
    """Inspect until the input ends. A picture that takes more than its seconds of CPU ends the process by SIGPROF."""
    _prepare(parent, nice)
    from services.storage.pictures.inspection import inspect, warm  # may fail, and takes long

    warm()
    answers.write(READY)
    answers.flush()
    while head := requests.read(REQUEST.size):
        seconds, size = REQUEST.unpack(head)
        data = requests.read(size)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        told = inspect("", data)
        signal.setitimer(signal.ITIMER_PROF, 0)
        if told.perceptual_hash is None or told.thumbnail is None:
            reason = told.problem.encode()[:MAX_REASON_BYTES]
            answers.write(ANSWER.pack(BROKEN, 1, 0.0, 0, 0, 0, len(reason)) + reason)
        else:
            body = told.perceptual_hash + told.thumbnail
            white, by_file = (told.white.value, told.white.told) if told.white else (0.0, False)
            said = ANSWER.pack(WHOLE, told.frames, white, by_file, told.width, told.height, len(body))
            answers.write(said + body)
        answers.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.stdin.buffer, sys.stdout.buffer)
