"""The writer of each format."""

from __future__ import annotations

from loupe.terminal.formats import coco, csv_table, datumaro, voc, yolo
from loupe.terminal.formats.sources import FOLDERS
from loupe.terminal.formats.writing import Writing

WRITERS: dict[str, type[Writing]] = {
    FOLDERS: csv_table.FolderWriter,
    csv_table.NAME: csv_table.Writer,
    coco.NAME: coco.Writer,
    voc.NAME: voc.Writer,
    yolo.NAME: yolo.Writer,
    datumaro.NAME: datumaro.Writer,
}
