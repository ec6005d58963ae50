"""The commands behind `make up`, `make down` and `make status`: python -m deploy.local up|down|status|logs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy.local.errors import DeployError
from deploy.local.health import ProcessStatus
from deploy.local.mesh import LocalMesh
from deploy.local.sandbox import sandbox_problem
from deploy.local.state import DEFAULT_STATE, TrainerId
from deploy.local.supervisor import tail

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
out, err = Console(), Console(stderr=True)

State = Annotated[Path, typer.Option(help="The mesh's state directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
_COLOURS = {"healthy": "green", "stopped": "dim", "unsupervised": "red"}


@app.command()
def up(
    state: State = DEFAULT_STATE,
    trainers: Annotated[
        str, typer.Option(help="cluster/trainer pairs, as in north/a,south/b; kept from the last time if not given.")
    ] = "",
    slots: Annotated[int, typer.Option(min=0, help="Jobs at once per trainer; 0 keeps the last number.")] = 0,
    timeout: Annotated[float, typer.Option(help="Seconds until every process must be healthy.")] = 120,
) -> None:
    """Start the mesh in the background, or bring a running one to the asked shape."""
    pairs = [(name.cluster, name.trainer) for name in map(TrainerId.parse, trainers.split(","))] if trainers else None
    mesh = LocalMesh(state, trainers=pairs, slots=slots or None, say=lambda line: err.print(f"[dim]{line}[/]"))
    started = time.monotonic()
    mesh.start(timeout)
    err.print(f"The mesh is up ({time.monotonic() - started:.1f} s).")
    _show(mesh, as_json=False)


@app.command()
def down(state: State = DEFAULT_STATE) -> None:
    """End every process of the mesh; its state stays."""
    mesh = LocalMesh(state)
    mesh.stop()
    err.print("The mesh is down; its state stays in " + str(mesh.state.root))


@app.command()
def status(state: State = DEFAULT_STATE, as_json: AsJson = False) -> None:
    """Show each process. Exit 0: all healthy; 1: not all; 3: the mesh is down."""
    statuses = _show(LocalMesh(state), as_json=as_json)
    if all(process.pid is None for process in statuses):
        raise typer.Exit(3)
    raise typer.Exit(0 if all(process.state == "healthy" for process in statuses) else 1)


@app.command()
def logs(
    process: Annotated[str, typer.Argument(help="A process as `status` names it; all of them if not given.")] = "",
    state: State = DEFAULT_STATE,
    lines: Annotated[int, typer.Option(min=1, help="How many of the last lines.")] = 40,
) -> None:
    """Print the end of the logs."""
    mesh = LocalMesh(state)
    wanted = [process] if process else [*mesh.processes, "supervisor"]
    if process and process not in {*mesh.processes, "supervisor"}:
        raise DeployError(f"No process is called {process}; there are {', '.join(mesh.processes)} and supervisor.")
    for name in wanted:
        print(f"== {name}: {mesh.state.log(name)}")
        print(tail(mesh.state.log(name), lines))


def _show(mesh: LocalMesh, *, as_json: bool) -> list[ProcessStatus]:
    statuses = mesh.status()
    if as_json:
        print(json.dumps(_document(mesh, statuses)))
        return statuses
    table = Table(title=f"Loupe mesh in {mesh.state.root}", title_justify="left")
    for column in ("process", "pid", "state", "uptime", "ports", "restarts"):
        table.add_column(column, justify="right" if column in {"pid", "uptime", "restarts"} else "left")
    for process in statuses:
        colour = _COLOURS.get(process.state, "yellow")
        table.add_row(
            process.name,
            str(process.pid or "-"),
            f"[{colour}]{process.state}[/]",
            _duration(process.uptime_seconds) if process.pid else "-",
            ", ".join(f"{name} {port}" for name, port in process.ports.items()),
            str(process.restarts),
        )
    out.print(table)
    for line in _notes(mesh, statuses):
        out.print(line, soft_wrap=True, highlight=False)
    return statuses


def _notes(mesh: LocalMesh, statuses: Iterable[ProcessStatus]) -> list[str]:
    running = any(process.pid for process in statuses)
    problem = sandbox_problem()
    sandbox = (
        f"Sandbox: none, so only built-in algorithm images run: {problem}"
        if problem
        else "Sandbox: bubblewrap works, so uploaded algorithm images run isolated."
    )
    if not running:
        return [sandbox, "The mesh is down: `make up` starts it."]
    notes = [sandbox]
    if not mesh.supervised:
        notes.append("[red]The supervisor is gone: nothing that dies comes back. `make up` mends that.[/]")
    places = mesh.endpoints
    if places.auth:
        password = places.admin_password_file
        notes.append("Log in as the first administrator:")
        notes.append(
            f"  .venv/bin/loupe login --server {places.auth} --ca {places.ca} --password-file {password} admin"
        )
    return notes


def _document(mesh: LocalMesh, statuses: Iterable[ProcessStatus]) -> dict[str, object]:
    places = mesh.endpoints
    return {
        "state": str(mesh.state.root),
        "supervised": mesh.supervised,
        "sandbox": sandbox_problem() is None,
        "auth": places.auth,
        "ca": str(places.ca),
        "consul": places.consul_url,
        "nats": places.nats_url,
        "processes": [asdict(process) | {"uptime_seconds": round(process.uptime_seconds, 1)} for process in statuses],
    }


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "m"), (rest, "s")]
    shown = [f"{value}{unit}" for value, unit in parts if value]
    return " ".join(shown[:2]) or "0s"


def main() -> int:
    """Run the command line; a failure that the user can mend is printed without a traceback, exit 1."""
    try:
        app()
    except DeployError as error:
        err.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
