"""A Consul that runs on this machine: found, or fetched into the user's cache."""

from __future__ import annotations

import hashlib
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

from platformdirs import user_cache_path

from deploy.local.apt import AptError, fetch_package
from deploy.local.errors import ConsulMissingError, DeployError

Say = Callable[[str], None]

_DEBIAN_SUITE = "bullseye"  # the last Debian release with a consul package
_RELEASE = "1.15.4"  # of the last series under the Mozilla Public License
_RELEASE_URL = "https://releases.hashicorp.com/consul/{version}/consul_{version}_linux_{machine}.zip"
_RELEASE_SHA256 = {
    "amd64": "f0d683ec9589884873f12a71dfb2fe0a03f0440f9d63bc30676f397919184c9a",
    "arm64": "d1404acf8de2fe662c479cfd3b5277e1da6ffc89fdd7b883ec32633941216daa",
}
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
_TIMEOUT_SECONDS = 30
_RELEASE_BYTES_AT_MOST = 256 << 20


def consul_version(binary: Path) -> tuple[int, ...]:
    """Run `consul version` and return it as in (1, 8, 7); DeployError if it does not run."""
    try:
        done = subprocess.run(
            [binary, "version"], capture_output=True, text=True, check=False, timeout=_TIMEOUT_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeployError(f"{binary} does not run: {error}") from error
    match = re.search(r"Consul v?(\d+)\.(\d+)\.(\d+)", done.stdout)
    if done.returncode or not match:
        said = (done.stderr or done.stdout).strip()[-300:]
        raise DeployError(f"{binary} is not a Consul that runs here: {said or 'it printed no version'}")
    return tuple(int(part) for part in match.groups())


def find_consul(say: Say = lambda _: None, cache: Path | None = None) -> Path:
    """Return a Consul binary that runs: $LOUPE_CONSUL, `consul` on PATH, the cache, Debian, HashiCorp.

    What has to be fetched lands in `cache` (the user's cache directory by default). `say` is told about each step
    that takes time. ConsulMissingError lists what each way answered.
    """
    if named := os.environ.get("LOUPE_CONSUL"):
        binary = Path(named)
        consul_version(binary)  # the operator named it: no fallback when it does not run
        return binary
    tried = ["$LOUPE_CONSUL: not set"]
    cache = cache or user_cache_path("loupe") / "consul"
    debian, release = cache / f"debian-{_DEBIAN_SUITE}" / "consul", cache / _RELEASE / "consul"
    on_path = shutil.which("consul")
    for way, candidate in (("consul on PATH", on_path), (str(debian), debian), (str(release), release)):
        if candidate is None or not Path(candidate).exists():
            tried.append(f"{way}: not there")
            continue
        try:
            consul_version(Path(candidate))
        except DeployError as error:
            tried.append(f"{way}: {error}")
        else:
            return Path(candidate)
    for way, target, fetch in (
        (f"Debian's package (suite {_DEBIAN_SUITE})", debian, _from_debian),
        (f"HashiCorp's release {_RELEASE}", release, _from_hashicorp),
    ):
        say(f"Consul: fetching {way}")
        try:
            fetch(target)
            consul_version(target)
        except (DeployError, OSError, zipfile.BadZipFile, subprocess.CalledProcessError) as error:
            tried.append(f"{way}: {error}")
        else:
            return target
    raise ConsulMissingError(
        "There is no Consul, and none could be fetched. Tried:\n"
        + "".join(f"  - {line}\n" for line in tried)
        + "Install Consul 1.8 or newer so that `consul` is on PATH, or set LOUPE_CONSUL to the binary, and try again."
    )


def _from_debian(target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="loupe-consul-") as folder:
        fetch_package("consul", _DEBIAN_SUITE, Path(folder))
        unpacked = Path(folder) / "usr/bin/consul"
        if not unpacked.is_file():
            raise AptError("Debian's package holds no usr/bin/consul")
        _place(unpacked.read_bytes(), target)


def _from_hashicorp(target: Path) -> None:
    machine = _MACHINES.get(platform.machine())
    if machine is None or platform.system() != "Linux":
        raise DeployError(f"no pinned release for {platform.system()} on {platform.machine()}")
    url = _RELEASE_URL.format(version=_RELEASE, machine=machine)
    with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as answer:
        archive = answer.read(_RELEASE_BYTES_AT_MOST)
    digest = hashlib.sha256(archive).hexdigest()
    if digest != _RELEASE_SHA256[machine]:
        raise DeployError(f"{url} has sha256 {digest}, expected {_RELEASE_SHA256[machine]}: it was thrown away")
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        _place(opened.read("consul"), target)


def _place(content: bytes, target: Path) -> None:
    """Write the binary under a temporary name and rename it: two set-ups at once cannot spoil each other."""
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".consul-")
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    Path(name).chmod(0o755)
    Path(name).replace(target)


def main() -> int:
    """Print the path of a Consul that runs; 1 and the reason on stderr when there is none."""
    try:
        print(find_consul(say=lambda line: print(line, file=sys.stderr, flush=True)))
    except DeployError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
