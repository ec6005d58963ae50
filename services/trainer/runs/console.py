"""A run's output as log lines: split, escaped, and bounded, however much of it there is."""

from __future__ import annotations

import codecs

from loupe.token_bucket import TokenBucket
from services.trainer.runs.intake import escape

LINES_PER_SECOND = 20
BURST = 200
NOTE_SECONDS = 5.0
MAX_PENDING = 16_000


class LogGate:
    """Lets a bounded number of lines through, and says how many it left out."""

    def __init__(self) -> None:
        self._bucket = TokenBucket(LINES_PER_SECOND, BURST)
        self._left_out = 0
        self._note_due = 0.0

    def admit(self, lines: list[str], now: float) -> list[str]:
        """Return the lines that go on; a note on those that do not comes once in a while."""
        admitted: list[str] = []
        for line in lines:
            if not self._bucket.take(now):
                self._left_out += 1
                continue
            if self._left_out and now >= self._note_due:
                self._note_due = now + NOTE_SECONDS
                admitted += self.rest()
            admitted.append(line)
        return admitted

    def rest(self) -> list[str]:
        """Return the note on what was left out since the last note, if anything was."""
        note = [f"… {self._left_out} lines of output were left out"] if self._left_out else []
        self._left_out = 0
        return note


class LineSplitter:
    """Cuts a stream of bytes into escaped lines; a line that does not end is cut off."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._pending = ""

    def feed(self, data: bytes, *, end: bool = False) -> list[str]:
        """Return the lines that are complete with these bytes."""
        self._pending += self._decoder.decode(data, final=end)
        *whole, self._pending = self._pending.replace("\r\n", "\n").split("\n")
        if end or len(self._pending) > MAX_PENDING:
            whole.append(self._pending)
            self._pending = ""
        return [escape(line) for line in whole if line.strip()]
