"""The program that turns picture files into pixels, in a process of its own: the bytes come from strangers.

It reads batches from its socket and answers picture by picture. It imports nothing of the services.

    request  height u32, width u32, fit u8 (its place in loupe.letterbox.FITS), count u32, then per picture: size u32,
             bytes
    answer   per picture: 1 u8, width u32 and height u32 of the upright picture in the file, height*width*3 bytes of
             pixels, or 0 u8, size u32, why not
"""

from __future__ import annotations

import argparse
import ctypes
import signal
import socket
import struct
from typing import BinaryIO, cast

from loupe.letterbox import FITS, Fit
from loupe.picture import BadPicture, read

HEAD = struct.Struct(">IIBI")
SIZE = struct.Struct(">I")
SIDES = struct.Struct(">II")
GOOD, BAD = b"\1", b"\0"


def answer(data: bytes, height: int, width: int, fit: Fit) -> bytes:
    """Return the answer to one picture."""
    try:
        decoded = read(data, height, width, fit)
        return GOOD + SIDES.pack(decoded.width, decoded.height) + decoded.pixels.tobytes()
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
        height, width, fit, count = HEAD.unpack(head)
        for _ in range(count):
            (size,) = SIZE.unpack(stream.read(SIZE.size))
            data = stream.read(size)
            # The kernel's SIGPROF ends a decoder that has no turn left, also in the middle of a library's loop.
            signal.setitimer(signal.ITIMER_PROF, options.cpu_seconds)
            answered = answer(data, height, width, FITS[fit])
            signal.setitimer(signal.ITIMER_PROF, 0)
            channel.sendall(answered)
    return 0
