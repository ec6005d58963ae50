"""A storage in a process of its own, so that its memory can be watched: `python -m tests.storage.apart SETTINGS`.

SETTINGS is JSON. It serves until its standard input ends.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from services.storage.settings import StorageSettings
from tests.storage.house import Client, House, open_channel
from tests.storage.mortal import NoDecoders

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Memory:
    """Memory is what a process holds of it, in bytes."""

    pid: int

    def now(self) -> int:
        """now is what it holds."""
        return self._read("VmRSS")

    def peak(self) -> int:
        """peak is the most that it held since it was forgotten."""
        return self._read("VmHWM")

    def forget_peak(self) -> None:
        """forget_peak makes now the peak."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def _read(self, field: str) -> int:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:"))


@asynccontextmanager
async def storage_apart(settings: StorageSettings) -> AsyncIterator[tuple[Client, Memory]]:
    """storage_apart starts a storage process; gives anna's client, and the process's memory."""
    command = [sys.executable, "-m", "tests.storage.apart", settings.model_dump_json()]
    pipe, nowhere = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=pipe, stdout=nowhere)
    assert process.stdin is not None
    try:
        async with open_channel(settings, "anna") as channel:
            async with asyncio.timeout(30):
                await channel.channel_ready()
            yield Client(channel), Memory(process.pid)
    finally:
        process.stdin.close()
        await process.wait()


async def serve(settings: StorageSettings) -> None:
    """serve is the process."""
    house = House(settings, NoDecoders())
    await house.start()
    await asyncio.to_thread(sys.stdin.read)
    await house.stop()


if __name__ == "__main__":
    asyncio.run(serve(StorageSettings.model_validate_json(sys.argv[1])))
