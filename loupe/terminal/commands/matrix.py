"""The options that show and write a confusion matrix, shared by `loupe job show` and whatever else has one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loupe.terminal.commands.frame import Cli
from loupe.terminal.commands.lazy import errors

MatrixOption = Annotated[
    bool,
    typer.Option("--matrix", help="Show the whole confusion matrix, in parts where it is wider than the terminal."),
]
CsvOption = Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write the confusion matrix as CSV.")]
PngOption = Annotated[
    Path | None, typer.Option("--png", metavar="FILE", help="Draw the confusion matrix into a PNG picture.")
]


def write_matrix(cli: Cli, name: str, report_json: str, csv_file: Path | None, png_file: Path | None) -> None:
    """Write the matrix of a report to the files that are named. Raises NotFound when the report has none."""
    from loupe.terminal.confusion import confusion_of, matrix_csv, write_png
    from loupe.terminal.verdict import read_report

    if csv_file is None and png_file is None:
        return
    found = confusion_of(read_report(report_json))
    if found is None:
        raise errors.NotFound(
            f"{name} has no confusion matrix; it is there when the job has ended with a model", resource=name
        )
    if csv_file is not None:
        csv_file.write_text(matrix_csv(found.matrix, found.labels), encoding="utf-8", newline="")
    if png_file is not None:
        write_png(found.matrix, found.labels, png_file, found.split)
    written = " and ".join(str(file) for file in (csv_file, png_file) if file is not None)
    cli.note(f"wrote the confusion matrix to {written}")
