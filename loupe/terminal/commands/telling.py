"""What commands that answer pictures have in common: which pictures are meant, and an answer for each as it comes."""

from __future__ import annotations

import asyncio
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Generic, TypeVar

import typer

from loupe.terminal.codes import Exit
from loupe.terminal.commands.frame import Cli, Ended
from loupe.terminal.commands.lazy import errors

if TYPE_CHECKING:
    from loupe.terminal.picture_paths import Expansion

Answer = TypeVar("Answer")

PicturesArgument = Annotated[
    list[Path] | None,
    typer.Argument(metavar="PICTURE", help="Pictures, folders of them, 'patterns', or - for paths on stdin."),
]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; else all.")]


class Telling(ABC, Generic[Answer]):
    """Answers pictures and tells each answer as it comes.

    verb: what is done with pictures. at_once: how many answers are told together. count and broken: the pictures that
    were told, and those of them that could not be read.
    """

    verb: ClassVar[str]

    def __init__(self, cli: Cli, at_once: int) -> None:
        self.count = 0
        self.broken = 0
        self._cli = cli
        self._at_once = at_once

    def note(self, text: str) -> None:
        """Tell a person something beside the answers."""
        self._cli.note(text)

    def named(self, words: Sequence[Path], pictures: Sequence[Path]) -> None:
        """Learn what the command line named, and which pictures these are, before any of them is answered."""

    async def answer(self, paths: Sequence[Path]) -> None:
        """Answer pictures and tell each answer."""
        answers = self._answers(paths)
        # In a thread, so that Ctrl-C is heard.
        while chunk := await asyncio.to_thread(lambda: list(islice(answers, self._at_once))):
            self._tell(chunk)

    @abstractmethod
    def _answers(self, paths: Sequence[Path]) -> Iterator[Answer]:
        """Yield the answers, with what has to be done while a picture is there."""

    @abstractmethod
    def _tell(self, chunk: Sequence[Answer]) -> None:
        """Print and count some answers."""


async def answer_named(answers: Telling[Answer], words: Sequence[Path]) -> Expansion:
    """Answer what the words of the command line mean. Raises InvalidArgument where they mean no picture."""
    from loupe.terminal.picture_paths import LIST, expand

    named = [word for word in words if str(word) != LIST]
    found = await asyncio.to_thread(expand, named)
    answers.named(words, found.pictures)
    await answers.answer(found.pictures)
    if len(named) < len(words):
        await _answer_list(answers, found)
    if words and not answers.count:
        raise errors.InvalidArgument(
            f"there is nothing to {answers.verb}: {'; '.join(found.empty)}; expected PNG, JPEG, WebP, BMP or TIFF "
            "files",
            field="pictures",
            value=", ".join(map(str, words)),
            expected="pictures",
        )
    for empty in found.empty:
        answers.note(empty)
    return found


async def _answer_list(answers: Telling[Answer], found: Expansion) -> None:
    """Answer the paths on stdin as they come; folders and patterns are taken there too."""
    from loupe.terminal.picture_paths import expand, listed

    before = answers.count
    async for batch in listed(sys.stdin.buffer):
        more: Expansion = await asyncio.to_thread(expand, batch)
        found.empty += more.empty
        await answers.answer(more.pictures)
    if answers.count == before and not found.empty:
        found.empty.append("stdin lists no pictures")


def end(answers: Telling[Answer], expansion: Expansion) -> None:
    """Say how many pictures could not be read, and end with bad input where some could not, or a word meant none."""
    if answers.broken:
        answers.note(f"{answers.broken} of {answers.count} pictures could not be read")
    if answers.broken or expansion.empty:
        raise Ended(Exit.BAD_INPUT)


def check_outside(field: str, folder: Path | None, sources: Sequence[Path]) -> None:
    """Refuse to write pictures to where they would be taken for ones to answer."""
    for source in sources if folder else ():
        if source.is_dir() and folder and folder.resolve().is_relative_to(source.resolve()):
            raise errors.invalid(field, str(folder), f"a folder outside of {source}, whose pictures are read")
