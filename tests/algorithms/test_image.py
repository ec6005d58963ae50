"""Packing, and unpacking archives that strangers made."""

from __future__ import annotations

import gzip
import io
import os
import random
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from loupe.algorithm.image import BadImage, Limits, digest, inspect, load_entry, pack, unpack
from loupe.algorithm.manifest import BadManifest

MANIFEST = """
name = "probe"
version = "1.0.0"
task = "classification"
entry = "main:train"
licence = "MIT"
summary = "A probe."
"""


def image_folder(root: Path, order: int = 0) -> Path:
    files = {
        "algorithm.toml": MANIFEST,
        "main.py": "from .part import answer\n\ndef train(context):\n    return answer()\n",
        "part.py": "def answer():\n    return 42\n",
        "data/größe.txt": "x",
    }
    names = list(files)
    random.Random(order).shuffle(names)
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[name], encoding="utf-8")
    return root


def archive(*members: tuple[tarfile.TarInfo, bytes], manifest: bool = True) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member, data in ([plain("algorithm.toml", MANIFEST.encode())] if manifest else []) + list(members):
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def plain(name: str, data: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo(name), data


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


def test_equal_trees_have_equal_digests(tmp_path: Path) -> None:
    """Neither the order of creation, nor times, nor modes, nor byte-code caches count."""
    first, second = image_folder(tmp_path / "a", 1), image_folder(tmp_path / "b", 2)
    os.utime(second / "main.py", (1, 1))
    (second / "main.py").chmod(0o700)
    (second / "__pycache__").mkdir()
    (second / "__pycache__" / "main.pyc").write_bytes(b"x")
    assert digest(pack(first)) == digest(pack(second))
    (second / "part.py").write_text("def answer():\n    return 43\n")
    assert digest(pack(first)) != digest(pack(second))


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_unpacking_gives_the_tree_back(tmp_path: Path, compress) -> None:
    packed = pack(image_folder(tmp_path / "a"))
    assert unpack(compress(packed), tmp_path / "out").name == "probe"
    assert pack(tmp_path / "out") == packed
    assert load_entry(tmp_path / "out", "main:train")(None) == 42


REFUSED = {
    "parent": archive(plain("../evil")),
    "parent inside": archive(plain("a/../../evil")),
    "absolute": archive(plain("/tmp/evil")),
    "symlink": archive(special("link", tarfile.SYMTYPE, "/etc/passwd")),
    "symlink then through it": archive(special("d", tarfile.SYMTYPE, "/tmp"), plain("d/evil")),
    "hardlink": archive(special("link", tarfile.LNKTYPE, "algorithm.toml")),
    "character device": archive(special("dev", tarfile.CHRTYPE)),
    "block device": archive(special("dev", tarfile.BLKTYPE)),
    "pipe": archive(special("pipe", tarfile.FIFOTYPE)),
    "twice": archive(plain("a"), plain("a")),
    "twice but for case": archive(plain("a"), plain("A")),
    "file and folder": archive(plain("a"), plain("a/b")),
    "newline": archive(plain("a\nb")),
    "backslash": archive(plain("..\\evil")),
    "empty part": archive(plain("a//b")),
    "deep": archive(plain("/".join("d" * 40))),
    "many": archive(*(plain(f"f{number}") for number in range(60))),
    "large": archive(plain("big", bytes(2 << 20))),
    "gzip bomb": gzip.compress(archive(plain("big", bytes(200 << 20)))),
    "no archive": b"hello" * 1000,
    "empty": b"",
    "cut gzip": gzip.compress(archive(plain("a", os.urandom(100_000))))[:50_000],
    "cut tar": archive(plain("a", os.urandom(100_000)))[:50_000],
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_archive_is_refused_whole_with_bounded_memory(tmp_path: Path, name: str) -> None:
    limits = Limits(max_entries=50, max_bytes=1 << 20)
    target = tmp_path / "inner" / "out"
    tracemalloc.start()
    try:
        with pytest.raises((BadImage, BadManifest)):
            unpack(REFUSED[name], target, limits)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20
    assert list((tmp_path / "inner").iterdir()) == []
    assert list(tmp_path.iterdir()) == [tmp_path / "inner"]
    assert not Path("/tmp/evil").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("symlink", "is a link to '/etc/passwd'"),
        ("hardlink", "is a link to"),
        ("character device", "neither a plain file nor a folder"),
        ("pipe", "neither a plain file nor a folder"),
        ("parent", "leads out of the image's folder"),
        ("large", "unpacks to more than 1048576 bytes"),
        ("gzip bomb", "unpacks to more than 1048576 bytes"),
    ],
)
def test_the_refusal_says_what_was_found(name: str, said: str) -> None:
    with pytest.raises(BadImage, match=said):
        inspect(REFUSED[name], Limits(max_entries=50, max_bytes=1 << 20))


def test_a_long_name_header_cannot_fill_the_memory(tmp_path: Path) -> None:
    """A tar may announce a name of any length; it counts against the same bound."""
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    with pytest.raises(BadImage):
        unpack(gzip.compress(member.tobuf() + bytes(100 << 20)), tmp_path / "out", Limits(max_bytes=1 << 20))


def test_inspect_reads_the_manifest_and_writes_nothing(tmp_path: Path) -> None:
    assert inspect(archive(plain("main.py"))).entry == "main:train"
    with pytest.raises(BadManifest, match=r"no algorithm\.toml"):
        inspect(archive(plain("sub/algorithm.toml", MANIFEST.encode()), manifest=False))
    with pytest.raises(BadImage):
        inspect(REFUSED["symlink"])


def test_links_are_not_packed(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "a")
    (folder / "secret").symlink_to("/etc/passwd")
    with pytest.raises(BadImage, match="secret"):
        pack(folder)


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        unpack(archive(), tmp_path)


@pytest.mark.parametrize(("entry", "said"), [("gone:train", "no module"), ("main:gone", "no function")])
def test_a_missing_entry_is_named(tmp_path: Path, entry: str, said: str) -> None:
    with pytest.raises(BadImage, match=said):
        load_entry(image_folder(tmp_path / "a"), entry)
