"""`make setup`: what every other `make` needs, a virtual environment with the pinned packages, bubblewrap, Consul.

Run by any Python 3.11 or newer, with the standard library alone: `python3 deploy/setup.py [bench]`. It does only what
is missing, says what it does on stderr, and is done at once when nothing is.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
VENV = CHECKOUT / ".venv"
PYTHON = VENV / "bin" / "python"
UV = VENV / "bin" / "uv"
STAMP = VENV / "loupe-setup.json"
LOCK = CHECKOUT / "requirements.lock"
BENCH_LOCK = CHECKOUT / "bench" / "requirements.lock"
OLDEST = (3, 11)
BYTECODE_ELSEWHERE = ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")
STARTED = (
    *("services.auth.app", "services.storage.app", "services.scheduler.app", "services.trainer.app"),
    *("deploy.demo.__main__", "deploy.demo.scenes", "deploy.demo.surfaces"),
    *("deploy.local.__main__", "deploy.local.supervise", "loupe.terminal.cli", "loupe.terminal.classifier"),
    *("loupe.algorithm.warm", "sklearn.metrics", "cleanlab.filter", "torch._dynamo"),
)
"""What is imported where somebody waits: by the mesh's processes, at a terminal, and by a job."""


class SetUpError(Exception):
    """What is wrong and how to mend it."""


def main(arguments: list[str]) -> int:
    """Set up for everything, and for the benchmarks too when `bench` is an argument; 1 on failure."""
    try:
        _check_python()
        _set_up(bench="bench" in arguments)
    except SetUpError as error:
        print(f"set-up failed: {error}", file=sys.stderr)
        return 1
    return 0


def _check_python() -> None:
    if sys.version_info < OLDEST:
        raise SetUpError(
            f"this is Python {platform.python_version()}, and Loupe needs 3.11 or newer. "
            "Install one and name it: make setup PYTHON=python3.12"
        )
    if platform.system() != "Linux":
        raise SetUpError(f"the local mesh runs on Linux, not on {platform.system()}.")


def _set_up(*, bench: bool) -> None:
    packages = _fingerprint(LOCK, CHECKOUT / "pyproject.toml")
    wanted = {"environment": str(VENV), "packages": packages, "bytecode": packages}
    if bench:
        wanted["bench"] = _fingerprint(BENCH_LOCK)
    if _is_done(wanted):
        return
    (CHECKOUT / ".cache").mkdir(exist_ok=True)
    with (CHECKOUT / ".cache" / "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two `make`s at once: the second finds the work done
        if _is_done(wanted):
            return
        _make_environment()
        done = _stamp()
        if done.get("packages") != wanted["packages"]:
            STAMP.unlink(missing_ok=True)  # a set-up that is cut off from here on is not done
            _bootstrap_uv()
            _install(LOCK, "packages (about 5 GB the first time; torch is most of it)")
            _install_project()
            done = {}
        if done.get("bytecode") != wanted["bytecode"]:
            _compile_what_starts()
        if bench and done.get("bench") != wanted["bench"]:
            _install(BENCH_LOCK, "packages of the benchmarks")
        _ensure_bubblewrap()
        consul = _ensure_consul()
        STAMP.write_text(json.dumps({**done, **wanted, "consul": consul}) + "\n", encoding="utf-8")
        _say("set-up is done")


def _fingerprint(*files: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _stamp() -> dict[str, str]:
    try:
        stamp: dict[str, str] = json.loads(STAMP.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return stamp


def _is_done(wanted: dict[str, str]) -> bool:
    stamp = _stamp()
    return (
        PYTHON.exists()
        and all(stamp.get(name) == value for name, value in wanted.items())
        and os.access(os.environ.get("LOUPE_CONSUL") or stamp.get("consul", ""), os.X_OK)
    )


def _make_environment() -> None:
    if _stamp().get("environment", str(VENV)) != str(VENV):
        _say("the checkout was moved: making its virtual environment anew")  # its scripts hold the old path
        shutil.rmtree(VENV)
    if PYTHON.exists():
        works = subprocess.run([PYTHON, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"], check=False)
        if works.returncode == 0:
            return
        _say("the virtual environment's Python does not run or is too old: making a new one")
    if VENV.exists():
        shutil.rmtree(VENV)  # also what a cut-off set-up left
    _say(f"making a virtual environment with Python {platform.python_version()}")
    try:
        import ensurepip  # noqa: F401 (Debian ships it in a package of its own)
    except ImportError:
        package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        if not _apt_install(package):
            raise SetUpError(f"this Python cannot make virtual environments; install {package}.") from None
    made = subprocess.run([sys.executable, "-m", "venv", VENV], capture_output=True, text=True, check=False)
    if made.returncode:
        shutil.rmtree(VENV, ignore_errors=True)
        raise SetUpError(f"python -m venv failed:\n{made.stdout}{made.stderr}")


def _uv_requirement() -> tuple[str, str]:
    """Return uv's version and its lines with hashes, as they stand in the lock."""
    block = re.search(r"^uv==(\S+).*(?:\n    --hash=.*)+", LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    if not block:
        raise SetUpError("requirements.lock holds no uv; `make lock` writes it anew.")
    return block[1], block[0]


def _bootstrap_uv() -> None:
    version, requirement = _uv_requirement()
    kept = _cache() / "uv" / version / "uv"
    if not (UV.exists() and f"uv {version} " in _output([UV, "--version"]) + " "):
        if kept.exists():
            shutil.copy2(kept, UV)
            return
        _say(f"installing uv {version}")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "uv.txt"
            file.write_text(requirement + "\n", encoding="utf-8")
            _run(
                [PYTHON, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", file],
                "pip could not install uv; is a package index reachable?",
            )
    if not kept.exists():
        _keep(kept)


def _keep(kept: Path) -> None:
    """Put uv where the next fresh checkout finds it without a network."""
    with contextlib.suppress(OSError):  # a home directory that cannot be written: then only this checkout has it
        kept.parent.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_name(f".uv-{os.getpid()}")
        shutil.copy2(UV, temporary)
        temporary.replace(kept)


def _install(lock: Path, what: str) -> None:
    _say(f"installing {what}")
    command: list[str | Path] = [UV, "pip", "install", "--python", PYTHON, "--require-hashes", "-r", lock]
    if not sys.stderr.isatty():
        command.append("--quiet")
    if subprocess.run(command, env=_uv_environment(), check=False, cwd=CHECKOUT).returncode == 0:
        return
    _say("that failed; trying again with what is cached")
    _run(
        [*command, "--offline"],
        f"the packages of {lock.name} could not be installed: neither from the index nor from uv's cache. "
        "Connect this machine to a package index, or set UV_DEFAULT_INDEX to one that it reaches.",
    )


def _compile_what_starts() -> None:
    """Leave bytecode, as uv does not and a sandbox may not: else each process compiles what it imports at its start.

    Also where the environment says that Python writes none, as in many containers.
    """
    _say("compiling what the mesh and its jobs import")
    environment = {name: value for name, value in os.environ.items() if name not in BYTECODE_ELSEWHERE}
    program = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    complaint = "what was installed could not be imported; the lines below say why."
    _run([PYTHON, "-c", program, *STARTED], complaint, environment)


def _install_project() -> None:
    _say("installing Loupe itself, editable")
    options = ["--quiet", "--offline", "--no-deps", "--no-build-isolation"]
    _run([UV, "pip", "install", "--python", PYTHON, *options, "-e", "."], "Loupe itself could not be installed.")


def _uv_environment() -> dict[str, str]:
    """Return an environment that tells uv of pip's index and certificates; uv reads no pip.conf."""
    environment = dict(os.environ)
    configured = {}
    for line in _output([PYTHON, "-m", "pip", "config", "list"]).splitlines():
        name, _, value = line.partition("=")
        configured[name.rpartition(".")[2]] = value.strip().strip("'\"")
    if "index-url" in configured and "UV_INDEX_URL" not in environment:
        environment.setdefault("UV_DEFAULT_INDEX", configured["index-url"])
    if "cert" in configured:
        environment.setdefault("SSL_CERT_FILE", configured["cert"])
    return environment


def _ensure_bubblewrap() -> None:
    if shutil.which("bwrap") is None and not _apt_install("bubblewrap"):
        _say("bubblewrap is missing and cannot be installed from here: only built-in algorithm images will run.")
        _say("To mend that, install the package bubblewrap as root (apt-get install bubblewrap).")


def _apt_install(package: str) -> bool:
    """Install a system package where that can be done without asking; False where not."""
    if os.getuid() != 0 or shutil.which("apt-get") is None:
        return False
    _say(f"installing the system package {package}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}

    def apt_get(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["apt-get", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    install = ("install", "-y", "-q", "--no-install-recommends", package)
    done = apt_get(*install)
    if done.returncode:
        apt_get("update", "-q")  # the lists of packages may be missing or old
        done = apt_get(*install)
    if done.returncode:
        _say(f"apt-get could not install {package}: {done.stderr.strip().splitlines()[-1:]}")
    return done.returncode == 0


def _ensure_consul() -> str:
    found = subprocess.run(
        [PYTHON, "-m", "deploy.local.consul_binary"], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, check=False
    )
    if found.returncode:
        raise SetUpError("there is no Consul (see above).")
    return found.stdout.strip()


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "loupe"


def _output(command: list[str | Path]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _run(command: list[str | Path], complaint: str, environment: dict[str, str] | None = None) -> None:
    environment = _uv_environment() if environment is None else environment
    done = subprocess.run(command, env=environment, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SetUpError(f"{complaint}\n{(done.stdout + done.stderr).strip()[-4000:]}")


def _say(line: str) -> None:
    print(f"set-up: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
