"""The generated code and its stubs: for every proto there is what protoc makes of it, and nothing else."""

from __future__ import annotations

from pathlib import Path

from deploy.protos import ROOT, generate


def test_nothing_is_missing_and_nothing_is_left_of_a_proto_that_went(tmp_path: Path) -> None:
    generate(tmp_path)
    fresh, kept = (
        {str(path.relative_to(root)): path.read_bytes() for path in root.glob("loupe/*/v1/*_pb2*.py*")}
        for root in (tmp_path, ROOT)
    )
    assert {Path(name).suffix for name in fresh} == {".py", ".pyi"}
    assert sorted(name for name in fresh.keys() | kept.keys() if fresh.get(name) != kept.get(name)) == []
