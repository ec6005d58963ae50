"""The program that turns picture files into pixels, in a process of its own: the bytes come from strangers.

It reads batches from its socket and answers picture by picture. It imports nothing of the services.

    request  height u32, width u32, count u32, then per picture: size u32, bytes
    answer   per picture: 1 u8 and height*width*3 bytes of pixels, or 0 u8, size u32, why not
"""

from __future__ import annotations

import argparse
import ctypes
import signal
import socket
import struct
from typing import BinaryIO, cast

from loupe.picture import BadPicture, decode

HEAD = struct.Struct(">III")
SIZE = struct.Struct(">I")
GOOD, BAD = b"\1", b"\0"


def answer(data: bytes, height: int, width: int) -> bytes:
    """Return the answer to one picture."""
    try:
        return GOOD + decode(data, height, width).tobytes()
    except (BadPicture, MemoryError) as error:
        reason = str(error).encode()[:1000] or b"it needs too much memory"
        return BAD + SIZE.pack(len(reason)) + reason


def main(arguments: list[str]) -> int:
    """Decode until its socket is closed."""
    parser = argparse.ArgumentParser(prog="decoder")
    parser.add_argument("--channel", type=int, required=True)
    parser.add_argument("--cpu-seconds", type=float, default=0.0, help="what one picture may take; 0: no bound")
    options = parser.parse_args(arguments)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    channel = socket.socket(fileno=options.channel)
    stream = cast(BinaryIO, channel.makefile("rb", buffering=1 << 20))
    while head := stream.read(HEAD.size):
        height, width, count = HEAD.unpack(head)
        for _ in range(count):
            (size,) = SIZE.unpack(stream.read(SIZE.size))
            data = stream.read(size)
            # The kernel's SIGPROF ends a decoder that has no turn left, also in the middle of a library's loop.
            signal.setitimer(signal.ITIMER_PROF, options.cpu_seconds)
            answered = answer(data, height, width)
            signal.setitimer(signal.ITIMER_PROF, 0)
            channel.sendall(answered)
    return 0
