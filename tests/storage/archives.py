"""Algorithm images as packed files, made by hand so that they may break the format."""

from __future__ import annotations

import io
import tarfile

MANIFEST = """
name = "{name}"
version = "{version}"
task = "classification"
entry = "train:run"
licence = "Apache-2.0"
summary = "for a test"
"""


def add(archive: tarfile.TarFile, name: str, data: bytes = b"", **fields: object) -> None:
    """add puts an entry into an archive; fields are those of tarfile.TarInfo."""
    header = tarfile.TarInfo(name)
    header.size = len(data)
    for key, value in fields.items():
        setattr(header, key, value)
    archive.addfile(header, io.BytesIO(data))


def packed(name: str = "mine", version: str = "1", code: bytes = b"def run(context): ...\n", **evil: object) -> bytes:
    """packed returns an image's tar; evil: fields of one more entry."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        add(archive, "algorithm.toml", MANIFEST.format(name=name, version=version).encode())
        add(archive, "train.py", code)
        if evil:
            add(archive, str(evil.pop("entry")), **evil)  # type: ignore[arg-type]
    return buffer.getvalue()
