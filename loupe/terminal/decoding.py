"""Decoding pictures in threads, a batch ahead of whoever answers them; one that cannot be read has its problem told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from loupe import picture
from loupe.letterbox import Fit


@dataclass(frozen=True)
class Opened:
    """A file that should be a picture. problem: why it is none; then decoded is None."""

    path: Path
    decoded: picture.Decoded | None = None
    problem: str = ""


@dataclass(frozen=True)
class Decoding:
    """How the pictures of a model are decoded: into height times width pixels, so many at once, in so many threads."""

    height: int
    width: int
    fit: Fit
    batch: int
    threads: int

    def batches(self, paths: Iterable[Path]) -> Iterator[Sequence[Opened]]:
        """Yield the pictures in their order, by batches; the next one is decoded while one is answered."""
        remaining = iter(paths)
        with ThreadPoolExecutor(self.threads) as pool:
            decoding = [pool.submit(self._open, path) for path in islice(remaining, self.batch)]
            while decoding:
                opened = [one.result() for one in decoding]
                decoding = [pool.submit(self._open, path) for path in islice(remaining, self.batch)]
                yield opened

    def _open(self, path: Path) -> Opened:
        try:
            return Opened(path, picture.read(read_picture(path), self.height, self.width, self.fit))
        except picture.BadPicture as error:
            return Opened(path, problem=str(error))
        except OSError as error:
            return Opened(path, problem=error.strerror or str(error))


def read_picture(path: Path) -> bytes:
    """Return a file's bytes, no more of them than tell that it is too large. Raises OSError."""
    with path.open("rb") as file:
        return file.read(picture.MAX_BYTES + 1)
