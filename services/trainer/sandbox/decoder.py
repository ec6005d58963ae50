"""The program that turns picture files into pixels, in a process of its own: the bytes come from strangers.

It reads batches from its socket and answers each with one. It imports nothing of the services.

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


def answer(stream: BinaryIO, height: int, width: int, count: int) -> bytes:
    """Read the pictures of one batch and return the answer to it."""
    parts = []
    for _ in range(count):
        (size,) = SIZE.unpack(stream.read(SIZE.size))
        data = stream.read(size)
        try:
            parts += [GOOD, decode(data, height, width).tobytes()]
        except (BadPicture, MemoryError) as error:
            reason = str(error).encode()[:1000] or b"it needs too much memory"
            parts += [BAD, SIZE.pack(len(reason)), reason]
    return b"".join(parts)


def main(arguments: list[str]) -> int:
    """Decode until its socket is closed."""
    parser = argparse.ArgumentParser(prog="decoder")
    parser.add_argument("--channel", type=int, required=True)
    options = parser.parse_args(arguments)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    channel = socket.socket(fileno=options.channel)
    stream = cast(BinaryIO, channel.makefile("rb", buffering=1 << 20))
    while head := stream.read(HEAD.size):
        channel.sendall(answer(stream, *HEAD.unpack(head)))
    return 0
