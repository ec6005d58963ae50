"""`make protos`: the Python code of the contract, generated into loupe/; `--out DIR` writes it elsewhere to compare."""

from __future__ import annotations

import argparse
import sys
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "protos"
_GRPC_STUBS = Path(sys.executable).parent / "protoc-gen-mypy_grpc"


def generate(target: Path) -> None:
    """Write *_pb2.py, *_pb2_grpc.py and the stubs of both for every proto under `target`/loupe/….

    The proto packages are the Python packages, so nothing is rewritten. Raises RuntimeError when protoc refuses.
    """
    protos = sorted(str(path.relative_to(SOURCES)) for path in SOURCES.rglob("*.proto"))
    well_known = str(resources.files("grpc_tools") / "_proto")
    services = [proto for proto in protos if proto.endswith("_service.proto")]
    for names, outputs in (
        (protos, [f"--python_out={target}", f"--pyi_out={target}"]),
        (
            services,
            [
                f"--grpc_python_out={target}",
                f"--plugin=protoc-gen-mypy_grpc={_GRPC_STUBS}",
                f"--mypy_grpc_out=quiet:{target}",
            ],
        ),
    ):
        status = protoc.main(["protoc", f"-I{SOURCES}", f"-I{well_known}", *outputs, *names])
        if status != 0:
            raise RuntimeError(f"protoc ended with status {status}")


def main() -> None:
    """Generate into the checkout, or into the folder given with --out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT, help="where to write; the checkout by default")
    target = parser.parse_args().out
    target.mkdir(parents=True, exist_ok=True)
    generate(target)
    print(f"generated into {target}", file=sys.stderr)


if __name__ == "__main__":
    main()
