"""A job as it goes on: a live view on a terminal, a line per step where the output is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from loupe.scheduler.v1 import training_job_pb2 as jobs
from loupe.tasks import TASKS
from loupe.tasks.objective import Objective, spoken
from loupe.terminal.escapes import escaped, escaped_lines
from loupe.terminal.tables import line, percent, placement_table, seconds_of
from loupe.terminal.watch import is_final

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

BAR = 30
LONGEST_PHASE = 60
OVERALL = tuple(name for task in TASKS.values() for name, metric in task.metrics.items() if not metric.of_label)
"""The metrics that progress may tell of, each as "validation_…"."""
LOG_INDENT = " " * 10


def state_word(state: int) -> str:
    """Return a JobState for people, for example "target missed"; of a newer mesh, its number."""
    if state not in jobs.JobState.values():
        return f"state {state}"
    return jobs.JobState.Name(state).removeprefix("JOB_STATE_").replace("_", " ").lower()


class JobView:
    """What is known of a job from its events.

    objective: what was asked for, None when not known. began: seconds since 1970 when it was
    submitted, else the first event's time counts. clock: seconds since 1970.
    """

    def __init__(
        self,
        objective: Objective | None = None,
        clock: Callable[[], float] = time.time,
        *,
        began: float | None = None,
    ) -> None:
        self.objective = objective
        self.metric = spoken(objective.metric) if objective else ""
        self.state = "submitted"
        self.message = ""
        self.attempt = 0
        self.progress = jobs.JobProgress()
        self.metrics: dict[str, float] = {}
        self._clock = clock
        self._began = began
        self._happened: float | None = None

    def add(self, event: jobs.JobEvent) -> None:
        """Take the next event."""
        self._happened = seconds_of(event.time) or self._clock()
        if self._began is None:
            self._began = self._happened
        self.attempt = event.attempt or self.attempt
        kind = event.WhichOneof("event")
        if kind == "state_change":
            self.state = state_word(event.state_change.state)
            self.message = escaped(event.state_change.message)
        elif kind == "progress":
            self.progress, self.message = event.progress, ""
            self.metrics.update(event.progress.metrics)

    @property
    def happened(self) -> float:
        """The seconds from the beginning to the last event, by the mesh's clock: also of one that is replayed later."""
        return max(0.0, self._happened - self._began) if self._happened and self._began else 0.0

    @property
    def elapsed(self) -> float:
        """The seconds since the beginning, by this machine's clock; no less than the events say."""
        return max(self.happened, self._clock() - self._began) if self._began else 0.0

    def line(self) -> str:
        """Return the job in one line."""
        parts = [f"{self.happened:6.1f} s", self.state]
        if self.progress.phase:
            parts.append(self._phase())
        parts += self._figures()
        if message := self._message():
            parts.append(message)
        return "  ".join(parts)

    def render(self) -> RenderableType:
        """Return the job as a small panel that is drawn again and again."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2))
        attempt = f", attempt {self.attempt}" if self.attempt > 1 else ""
        grid.add_row(Text(f"{self.state}{attempt}", style="bold"), Text(f"{self.elapsed:.1f} s", style="dim"))
        if self.progress.phase:
            steps = max(0, self.progress.total_steps)
            bar = ProgressBar(total=steps or None, completed=self.progress.step, width=BAR, pulse=not steps)
            grid.add_row(Text(self._phase()), bar)
        score = self._score()
        if score is not None and self.objective:
            colour = "green" if self.objective.reached_by(score) else "yellow"
            bar = ProgressBar(total=1.0, completed=score, width=BAR, complete_style=colour)
            grid.add_row(Text("  ".join(self._figures())), bar)
        elif figures := self._figures():
            grid.add_row(Text("  ".join(figures)))
        if message := self._message():
            grid.add_row(Text(message, style="dim"))
        return grid

    def _message(self) -> str:
        return escaped(self.progress.message) or self.message

    def _phase(self) -> str:
        text = escaped(self.progress.phase, LONGEST_PHASE)
        if self.progress.epoch:
            text += f" epoch {self.progress.epoch}"
        if self.progress.step:
            total = f"/{self.progress.total_steps}" if self.progress.total_steps else ""
            text += f" {self.progress.step}{total}"
        return text

    def _score(self) -> float | None:
        """Return the objective's metric as it was told: by its own name, or as the score where it has none."""
        own = self.metrics.get(f"validation_{self.objective.metric}") if self.objective else None
        return self.metrics.get("validation_score", own)

    def _figures(self) -> list[str]:
        figures = []
        goal = f" of {percent(self.objective.bound)}" if self.objective else ""
        for name in OVERALL:
            if (value := self.metrics.get(f"validation_{name}")) is not None:
                asked = self.objective is None or self.objective.metric == name
                figures.append(f"validation {spoken(name)} {percent(value)}{goal if asked else ''}")
        own = self.objective is not None and f"validation_{self.objective.metric}" in self.metrics
        if (score := self.metrics.get("validation_score")) is not None and not own:
            figures.append(f"{escaped(self.metric)} {percent(score)}{goal}")
        if (speed := self.metrics.get("pictures_per_second")) is not None:
            figures.append(f"{speed:.0f} pictures/s")
        return figures


@contextmanager
def job_display(console: Console, view: JobView) -> Iterator[Callable[[jobs.JobEvent], None]]:
    """Yield what takes each event and shows it; placements and final states stay on the screen."""
    if not console.is_terminal:
        yield lambda event: _show(console, view, event, every_step=True)
        return
    from rich.live import Live

    with Live(get_renderable=view.render, console=console, refresh_per_second=8, transient=True):
        yield lambda event: _show(console, view, event, every_step=False)


def _show(console: Console, view: JobView, event: jobs.JobEvent, *, every_step: bool) -> None:
    """Add the event to the view, and print what is to stay; every_step: a line for progress too."""
    view.add(event)
    kind = event.WhichOneof("event")
    if kind == "placement":
        console.print(*_placement(event))
    elif kind == "log":
        told = escaped_lines(event.log).replace("\n", f"\n{LOG_INDENT}")
        console.print(line(LOG_INDENT + told, "dim"))
    elif kind == "state_change":
        console.print(line(_state_line(view), "bold" if is_final(event) else "dim"))
    elif kind == "progress" and every_step:
        console.print(line(view.line()))


def _state_line(view: JobView) -> str:
    return f"{view.happened:6.1f} s  {view.state}" + (f": {view.message}" if view.message else "")


def _placement(event: jobs.JobEvent) -> list[RenderableType]:
    placement = event.placement
    where = placement.trainer or "nowhere yet"
    # The trainer is named in the summary already when it was chosen.
    summary = placement.summary if placement.summary.startswith(where) else f"{where}: {placement.summary}"
    return [placement_table(placement), line(f"{escaped(summary)}\n", "green" if placement.trainer else "yellow")]
