"""JSON, XML, YAML and text of strangers, read within bounds: no entities, no aliases, no doubled keys, no NaN."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from loupe.annotations import BadAnnotation
from loupe.errors import BadDataset, invalid

MAX_JSON_BYTES = 64 << 20
MAX_XML_BYTES = 4 << 20
MAX_TEXT_BYTES = 16 << 20
MAX_YAML_BYTES = 128 << 10
MAX_DEPTH = 64
"""How deep XML may be nested; no annotation needs ten."""


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises BadDataset, also for a doubled key, NaN and a file above MAX_JSON_BYTES."""
    text = read_text(path, MAX_JSON_BYTES)
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise _bad(path, f"is not JSON, line {error.lineno}, column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise _bad(path, "is nested too deep") from error
    except ValueError as error:
        raise _bad(path, str(error)) from error


def read_xml(path: Path) -> Element:
    """Read an XML file. Raises BadDataset, also for a DOCTYPE, which alone can define entities."""
    data = read_bytes(path, MAX_XML_BYTES)
    builder, parser = TreeBuilder(), expat.ParserCreate()
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise _bad(path, "is nested too deep")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_declaration: object) -> NoReturn:
        raise _bad(path, "has a DOCTYPE, which is not read; take it away")

    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, refuse
    try:
        parser.Parse(data, True)
        return builder.close()
    except expat.ExpatError as error:
        raise _bad(path, f"is not XML, line {error.lineno}: {expat.ErrorString(error.code)}") from error
    except (LookupError, ValueError) as error:
        raise _bad(path, f"is in an encoding that cannot be read ({error})") from error


def read_yaml(path: Path) -> Any:
    """Read YAML: dictionaries, lists and texts, since `no` and `1` are names of classes, too. Raises BadDataset."""
    import yaml

    text = read_text(path, MAX_YAML_BYTES)
    try:
        # Nodes alone: nothing is constructed, whatever tags say.
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        return _plain(path, node, set())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise _bad(path, f"is not YAML{where}: {getattr(error, 'problem', None) or 'it cannot be read'}") from error
    except RecursionError as error:
        raise _bad(path, "is nested too deep") from error


def read_text(path: Path, most: int = MAX_TEXT_BYTES) -> str:
    """Read a text in UTF-8 of at most so many bytes. Raises BadDataset."""
    try:
        return read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _bad(path, f"is not UTF-8 text, at byte {error.start}; save it as UTF-8") from error


def peek(path: Path, size: int) -> bytes:
    """Return the first and the last bytes of a file, so many of each; none of one that cannot be read.

    Whoever reads the file tells that: here it says nothing of what the file is.
    """
    try:
        with path.open("rb") as file:
            head = file.read(size)
            file.seek(max(len(head), path.stat().st_size - size))
            return head + file.read(size)
    except OSError:
        return b""


def read_bytes(path: Path, most: int) -> bytes:
    """Read a file of at most so many bytes. Raises BadDataset, InvalidArgument for one that cannot be read."""
    try:
        if not path.is_file():
            raise _bad(path, "is not a file")
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise invalid("source", str(path), f"a file that can be read ({error.strerror})") from error
    if len(data) > most:
        raise _bad(path, f"has more than {most >> 20 or most} {'MiB' if most >> 20 else 'bytes'}; divide it")
    return data


def number(value: object, what: str) -> float:
    """Return a number that a document has. Raises BadAnnotation for what is none, and for texts that are none.

    >>> number("12.5", "xmin"), number(3, "x")
    (12.5, 3.0)
    >>> number(True, "x")
    Traceback (most recent call last):
    loupe.annotations.BadAnnotation: x is True; a number would be right
    """
    if not isinstance(value, bool) and isinstance(value, int | float | str):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    raise BadAnnotation(f"{what} is {str(value)[:80]}; a number would be right")


def whole_number(value: object, what: str) -> int:
    """Return a whole number above 0 of a document. Raises BadAnnotation."""
    found = number(value, what)
    if not 0 < found < 1e9 or found % 1:
        raise BadAnnotation(f"{what} is {str(value)[:40]}; a whole number of pixels would be right")
    return int(found)


def corners_of(bbox: object) -> list[float]:
    """Return the corners of a box of x, y, width and height. Raises BadAnnotation."""
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise BadAnnotation(f"the bbox is {str(bbox)[:80]}; x, y, width and height would be right")
    x, y, width, height = (number(each, "a number of the bbox") for each in bbox)
    return [x, y, x + width, y + height]


def members(document: Any, name: str, path: Path) -> list[dict[str, Any]]:
    """Return a member of a document that is a list of objects; none where it is absent. Raises BadDataset."""
    found = document.get(name, []) if isinstance(document, dict) else None
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise _bad(path, f'"{name}" is not a list of objects')
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        (name, times), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f'has an object with the key "{name[:80]}" {times} times; once would be right')
    return made


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"has {name}, which is no JSON; a number would be right")


def _plain(path: Path, node: Any, seen: set[int]) -> Any:
    import yaml

    if node is None:
        return None
    if id(node) in seen:
        raise _bad(path, f"has an alias, line {node.start_mark.line + 1}, which is not read; write it out")
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        return [_plain(path, each, seen) for each in node.value]
    if isinstance(node, yaml.MappingNode):
        made = {}
        for key, value in node.value:
            name = str(key.value)
            if name in made:
                raise _bad(path, f'line {key.start_mark.line + 1}: the key "{name[:80]}" is there twice')
            made[name] = _plain(path, value, seen)
        return made
    return str(node.value)


def _bad(path: Path, what: str) -> BadDataset:
    return BadDataset(f"{path} {what}", problem="document")
