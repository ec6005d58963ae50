"""Algorithm images as one file: a folder packed so that equal trees give equal bytes, and unpacked without trust."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import shutil
import sys
import tarfile
import tempfile
import types
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

from loupe.algorithm.manifest import FILE_NAME, MAX_BYTES, BadManifest, Manifest, parse_manifest

_IGNORED = {"__pycache__", ".git", ".DS_Store"}
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 256 << 10


class BadImage(ValueError):
    """Says why a folder cannot be packed or an archive is refused. An archive is refused as a whole."""


@dataclass(frozen=True)
class Limits:
    """Bounds what an archive may unpack to.

    max_bytes counts the tar stream, headers included, after decompression. max_depth counts the parts of a path.
    """

    max_entries: int = 2_000
    max_bytes: int = 64 << 20
    max_depth: int = 16


DEFAULT_LIMITS = Limits()


def pack(folder: Path, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Return the folder as a plain tar: sorted, without times, owners or modes. Raises BadImage, BadManifest.

    Byte-code caches and version control are left out. Symlinks and special files are refused rather than followed.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in _files(folder, limits):
            header = tarfile.TarInfo(path.relative_to(folder).as_posix())
            header.size = path.stat().st_size
            header.mode = 0o644
            if buffer.tell() + header.size > limits.max_bytes:
                raise BadImage(f"{folder} is larger than {limits.max_bytes} bytes")
            with path.open("rb") as content:
                archive.addfile(header, content)
    data = buffer.getvalue()
    inspect(data, limits)
    return data


def digest(archive: bytes) -> str:
    """Return the sha256 of a packed image, hex: the image's identity."""
    return hashlib.sha256(archive).hexdigest()


def inspect(archive: bytes | BinaryIO, limits: Limits = DEFAULT_LIMITS) -> Manifest:
    """Walk a whole tar (plain or gzip) without writing anything and return its manifest.

    Raises BadImage, BadManifest.
    """
    return _walk(archive, limits, lambda name, content: None)


def unpack(archive: bytes | BinaryIO, folder: Path, limits: Limits = DEFAULT_LIMITS) -> Manifest:
    """Write a tar (plain or gzip) into a folder that does not exist yet, and return its manifest.

    Either all of it stands there afterwards, or nothing. Raises BadImage, BadManifest, FileExistsError.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} is there already")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))

    def write(name: PurePosixPath, content: IO[bytes]) -> None:
        target = partial.joinpath(*name.parts)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as out:
                shutil.copyfileobj(content, out, _CHUNK)
        except (FileExistsError, NotADirectoryError) as error:
            raise BadImage(f"{name} is in the archive both as a file and as a folder") from error

    try:
        manifest = _walk(archive, limits, write)
        partial.chmod(0o755)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest


def load_entry(folder: Path, entry: str) -> Callable[..., Any]:
    """Import the image's entry, "module:function". Raises BadImage where it is not there.

    The image becomes a package of its own, so `from . import part` works and two images do not meet.
    Plain `import part` works as well, as long as no installed module has that name.
    """
    module_name, _, function_name = entry.partition(":")
    package_name = f"loupe_image_{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]}"
    if package_name not in sys.modules:
        package = types.ModuleType(package_name)
        package.__path__ = [str(folder)]
        package.__spec__ = ModuleSpec(package_name, None, is_package=True)
        sys.modules[package_name] = package
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    try:
        found = importlib.util.find_spec(f"{package_name}.{module_name}")
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise BadImage(f"entry {entry!r}: the image has no module {module_name!r}")
    function: object = getattr(importlib.import_module(found.name), function_name, None)
    if not callable(function):
        raise BadImage(f"entry {entry!r}: module {module_name!r} has no function {function_name!r}")
    return function


def _files(folder: Path, limits: Limits) -> list[Path]:
    if not folder.is_dir():
        raise BadImage(f"{folder} is not a folder")
    found: list[Path] = []
    for path in _tree(folder):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise BadImage(f"{path.relative_to(folder)} is a link or a special file; only plain files are packed")
        if path.is_file():
            found.append(path)
        if len(found) > limits.max_entries:
            raise BadImage(f"{folder} has more than {limits.max_entries} files")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _tree(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name in _IGNORED or path.suffix == ".pyc":
            continue
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _tree(path)


class _Raw(io.RawIOBase):
    """Passes a stream on, whatever it is."""

    def __init__(self, source: IO[bytes] | io.BufferedIOBase) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._source.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Bounded(_Raw):
    """Passes a stream on and refuses it once more than `limit` bytes came out of it."""

    def __init__(self, source: io.BufferedIOBase, limit: int) -> None:
        super().__init__(source)
        self._limit = self._left = limit

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer)
        self._left -= count
        if self._left < 0:
            raise BadImage(f"the archive unpacks to more than {self._limit} bytes")
        return count


def _walk(archive: bytes | BinaryIO, limits: Limits, visit: Callable[[PurePosixPath, IO[bytes]], None]) -> Manifest:
    """Show each file to `visit`, which may read it; return the manifest once the whole archive was found good."""
    source = io.BytesIO(archive) if isinstance(archive, bytes) else archive
    buffered = io.BufferedReader(_Raw(source), _CHUNK)
    compressed = buffered.peek(2)[:2] == _GZIP_MAGIC
    tarred = gzip.GzipFile(fileobj=buffered) if compressed else buffered
    bounded = io.BufferedReader(_Bounded(tarred, limits.max_bytes), _CHUNK)
    names: set[str] = set()
    text: bytes | None = None
    entries = 0
    try:
        with tarfile.open(fileobj=bounded, mode="r|", bufsize=_CHUNK) as tar:
            for member in tar:
                entries += 1
                if entries > limits.max_entries:
                    raise BadImage(f"the archive has more than {limits.max_entries} entries")
                # tarfile keeps every header; a million of them would fill the memory.
                tar.members.clear()  # type: ignore[attr-defined]  # typeshed lacks it
                name = _checked_name(member, limits)
                if member.isdir():
                    continue
                if str(name).casefold() in names:
                    raise BadImage(f"{name} is in the archive twice")
                names.add(str(name).casefold())
                content = tar.extractfile(member)
                if content is None:
                    raise BadImage(f"{name} has no content")
                if str(name) == FILE_NAME:
                    text = content.read(MAX_BYTES + 1)
                    content = io.BytesIO(text)
                visit(name, content)
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, OverflowError) as error:
        if isinstance(error, BadImage):
            raise
        raise BadImage(f"this is no whole tar archive: {error}") from error
    if text is None:
        raise BadManifest(f"the image has no {FILE_NAME} at its top")
    return parse_manifest(text)


def _checked_name(member: tarfile.TarInfo, limits: Limits) -> PurePosixPath:
    name = member.name
    shown = ascii(name[:100])
    if member.issym() or member.islnk():
        raise BadImage(f"{shown} is a link to {member.linkname[:100]!a}; links are refused")
    if member.issparse() or not (member.isreg() or member.isdir()):
        raise BadImage(f"{shown} is neither a plain file nor a folder")
    parts = name.rstrip("/").split("/") if member.isdir() else name.split("/")
    parts = parts[1:] if parts[:1] == ["."] and (len(parts) > 1 or member.isdir()) else parts
    if name.startswith("/") or ".." in parts:
        raise BadImage(f"{shown} leads out of the image's folder")
    if any(part in ("", ".") or len(part.encode(errors="replace")) > 255 for part in parts):
        raise BadImage(f"{shown} is no usable path")
    if any(character == "\\" or not character.isprintable() for character in name):
        raise BadImage(f"{shown} has characters that a path may not have")
    if len(parts) > limits.max_depth:
        raise BadImage(f"{shown} is deeper than {limits.max_depth} folders")
    return PurePosixPath(*parts)
