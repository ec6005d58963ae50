"""Examples are true: those for people have the right types and run, those with >>> say what they say."""

from __future__ import annotations

import doctest
import importlib
import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from typer.testing import CliRunner

import loupe.terminal
from loupe.terminal.cli import app

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# The cache that `make lint` fills: with it, this takes seconds.
MYPY = (sys.executable, "-m", "mypy", "--cache-dir", ".mypy_cache")


def blocks_of_readme() -> list[str]:
    return BLOCK.findall(README.read_text(encoding="utf-8"))


def block_of_docstring() -> str:
    """The indented part of the docstring of loupe.terminal."""
    lines = (loupe.terminal.__doc__ or "").splitlines()
    return textwrap.dedent("\n".join(line for line in lines if not line or line.startswith("    "))).strip() + "\n"


def type_errors(folder: Path, examples: list[str]) -> list[tuple[int, str]]:
    """What mypy says of examples, each in a coroutine, since they await: its number, and "4: message" by the line."""
    files = [folder / f"example_{number}.py" for number in range(len(examples))]
    for file, example in zip(files, examples, strict=True):
        # The signature stands in the first line, and so the lines below it keep their number plus one.
        file.write_text("async def example() -> None:\n" + textwrap.indent(example, "    "), encoding="utf-8")
    told = subprocess.run([*MYPY, *map(str, files)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert not told.stderr, told.stderr
    assert told.returncode in (0, 1), told.stdout
    found = re.findall(r"example_(\d+)\.py:(\d+): error: (.*)", told.stdout)
    return [(int(number), f"{int(line) - 1}: {message}") for number, line, message in found]


@pytest.mark.timeout(300)
def test_examples_for_people_have_the_right_types(tmp_path: Path) -> None:
    examples = blocks_of_readme()
    assert examples
    assert block_of_docstring() in examples, "README.md and loupe.terminal show the same example"
    wrong = [example.replace('Path("pictures/")', '"pictures/"') for example in examples]
    assert wrong != examples
    ((number, error),) = type_errors(tmp_path, examples + wrong)
    assert number >= len(examples), error
    assert 'incompatible type "str"; expected "Path | Collection"' in error


def commands_without_a_mesh() -> list[str]:
    """The commands of the README that need the checkout alone: one makes pictures, one tries an image out on them."""
    text = README.read_text(encoding="utf-8")
    shown = re.findall(r"^    \$ \.venv/bin/(python -m deploy\.demo\..*)$", text, re.MULTILINE)
    return shown + [" ".join(found.split()) for found in re.findall(r"`(python\s-m\sloupe\.algorithm\s[^`]+)`", text)]


@pytest.mark.timeout(600)
def test_commands_that_need_no_mesh_run_as_they_stand(tmp_path: Path) -> None:
    """The pictures' own split is taken as one: three classes, and 90 of the 585 pictures in validation and in test."""
    (tmp_path / "services").symlink_to(ROOT / "services")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    commands = commands_without_a_mesh()
    modules = ["deploy.demo.surfaces", "deploy.demo.flaws", "loupe.algorithm"]
    assert [command.split()[2] for command in commands] == modules
    told = ""
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "python"
        ended = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, (command, ended.stdout, ended.stderr)
        told = ended.stdout
    for split in ("validation", "test"):
        assert re.search(rf"^{split}: accuracy .*, lowest recall .*, 90 pictures$", told, re.MULTILINE), told


def commands_of_the_terminal() -> list[str]:
    """Every `loupe` command that the README and docs/terminal.md show with its arguments."""
    texts = [file.read_text(encoding="utf-8") for file in (README, ROOT / "docs" / "terminal.md")]
    shown = [line for text in texts for line in re.findall(r"^    \$ (loupe .*)$", text, re.MULTILINE)]
    return [part.strip() for line in shown for part in line.split("&&")]


@pytest.mark.parametrize("command", commands_of_the_terminal())
def test_commands_of_the_terminal_are_understood(command: str) -> None:
    """Every command and option is there; with --help nothing is run."""
    _, *words = shlex.split(command, comments=True)
    told = CliRunner().invoke(app, [*words, "--help"])
    assert told.exit_code == 0, told.output


def modules_with_examples() -> list[str]:
    files = (ROOT / "loupe").rglob("*.py")
    names = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in files
        if ">>> " in file.read_text(encoding="utf-8")
    ]
    return sorted(name.removesuffix(".__init__") for name in names)


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_in_docstrings_say_what_comes_out(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted and not result.failed
