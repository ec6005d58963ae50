"""Examples are true: those for people have the right types, those with >>> say what they say."""

from __future__ import annotations

import doctest
import importlib
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import loupe.terminal

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


def type_errors(folder: Path, examples: list[str]) -> list[str]:
    """What mypy says of examples, each in a coroutine, since they await things: "4: message", by the line in it."""
    files = [folder / f"example_{number}.py" for number in range(len(examples))]
    for file, example in zip(files, examples, strict=True):
        # The signature stands in the first line, and so the lines below it keep their number plus one.
        file.write_text("async def example() -> None:\n" + textwrap.indent(example, "    "), encoding="utf-8")
    told = subprocess.run([*MYPY, *map(str, files)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert not told.stderr, told.stderr
    assert told.returncode in (0, 1), told.stdout
    found = re.findall(r"example_\d+\.py:(\d+): error: (.*)", told.stdout)
    return [f"{int(line) - 1}: {message}" for line, message in found]


@pytest.mark.timeout(300)
def test_examples_for_people_have_the_right_types(tmp_path: Path) -> None:
    examples = blocks_of_readme()
    assert examples
    assert block_of_docstring() in examples, "README.md and loupe.terminal show the same example"
    wrong = [example.replace('Path("pictures/")', '"pictures/"') for example in examples]
    assert wrong != examples
    assert type_errors(tmp_path, examples) == []
    (error,) = type_errors(tmp_path, wrong)
    assert 'incompatible type "str"; expected "Path | Collection"' in error


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
