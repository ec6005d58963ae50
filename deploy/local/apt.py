"""Which Debian archives this machine uses, and one package fetched from them by a private apt set-up.

The machine's own package lists and packages are neither read nor changed, so no root is needed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from deploy.local.errors import DeployError

_KEYRINGS = (
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
    "/usr/share/keyrings/debian-archive-{suite}-automatic.gpg",
    "/etc/apt/trusted.gpg.d/debian-archive-{suite}-automatic.asc",
    "/usr/share/keyrings/debian-archive-removed-keys.gpg",
)
"""Where Debian's own packages put the keys that sign its archive."""

_ONE_LINE = re.compile(r"^(?P<type>deb(?:-src)?)\s+(?:\[(?P<options>[^]]*)]\s+)?(?P<uri>\S+)\s+(?P<rest>.+)$")


class AptError(DeployError):
    """The package could not be fetched; the text is what apt said."""


@dataclass(frozen=True)
class Source:
    """One archive as apt is configured to use it."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]


def parse_one_line(text: str) -> list[Source]:
    """Read the `deb [options] uri suite component...` format; sources and comments are left out."""
    found: list[Source] = []
    for raw in text.splitlines():
        match = _ONE_LINE.match(raw.split("#", 1)[0].strip())
        if match and match["type"] == "deb":
            suite, *components = match["rest"].split()
            found.append(Source(match["uri"], (suite,), tuple(components)))
    return found


def parse_deb822(text: str) -> list[Source]:
    """Read the stanza format of `*.sources`; disabled stanzas and source archives are left out."""
    found: list[Source] = []
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n(?:[ \t]*\n)+", "\n".join(lines)):
        fields = _fields(stanza)
        if fields.get("enabled", "yes").strip().lower() in {"no", "false", "off", "0", "without", "disable"}:
            continue
        if "deb" not in fields.get("types", "").split():
            continue
        suites, components = fields.get("suites", "").split(), fields.get("components", "").split()
        found.extend(Source(uri, tuple(suites), tuple(components)) for uri in fields.get("uris", "").split())
    return found


def _fields(stanza: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line[:1] in {" ", "\t"} and name:
            fields[name] += " " + line.strip()
        elif ":" in line:
            name, value = line.split(":", 1)
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields


def archives(sources: Iterable[Source]) -> list[str]:
    """Return the URIs that can hold a whole Debian release, the likeliest first, each once.

    Archives of security updates hold only those, and archives without `main` belong to somebody else's packages.
    """
    whole = [
        source.uri.rstrip("/")
        for source in sources
        if "main" in source.components
        and not any("security" in suite for suite in source.suites)
        and not source.uri.startswith("cdrom:")
    ]
    unique = list(dict.fromkeys(whole))
    return sorted(unique, key=lambda uri: not uri.endswith("/debian"))


def configured_archives(root: Path = Path("/etc/apt")) -> list[str]:
    """Return the `archives` that stand in apt's configuration on this machine."""
    sources: list[Source] = []
    one_line = [root / "sources.list", *sorted((root / "sources.list.d").glob("*.list"))]
    for file in one_line:
        if file.is_file():
            sources += parse_one_line(file.read_text(encoding="utf-8", errors="replace"))
    for file in sorted((root / "sources.list.d").glob("*.sources")):
        sources += parse_deb822(file.read_text(encoding="utf-8", errors="replace"))
    return archives(sources)


def keyrings(suite: str) -> list[Path]:
    """Return the files on this machine that may hold the keys of a Debian suite."""
    return [path for name in _KEYRINGS if (path := Path(name.format(suite=suite))).is_file()]


def fetch_package(package: str, suite: str, into: Path) -> None:
    """Unpack a Debian package of `suite` into the folder `into`.

    apt checks the archive's signature against Debian's keyring and the package against the archive. AptError when
    no configured archive gives it.
    """
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise AptError(f"this machine has no {program}")
    uris, keys = configured_archives(), keyrings(suite)
    if not uris:
        raise AptError("no Debian archive stands in /etc/apt/sources.list or /etc/apt/sources.list.d")
    if not keys:
        raise AptError("Debian's keyring is missing (package debian-archive-keyring)")
    said = []
    for uri in uris:
        for key in keys:
            with tempfile.TemporaryDirectory(prefix="loupe-apt-") as folder:
                configuration = _private_configuration(Path(folder), uri, suite, key)
                output = _try(package, suite, configuration, into)
            if output is None:
                return
            said.append(output)
    raise AptError(said[0])


def _try(package: str, suite: str, configuration: Path, into: Path) -> str | None:
    """Fetch by one private configuration; return None when it worked, else what apt complained about."""
    folder = configuration.parent
    environment = {**os.environ, "APT_CONFIG": str(configuration), "LC_ALL": "C"}
    # "update" may complain and still have fetched what is needed; "download" is the judge.
    update, download = (
        subprocess.run(
            ["apt-get", "-q", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        for arguments in (["update"], ["download", package])
    )
    packages = list(folder.glob(f"{package}_*.deb"))
    if download.returncode or not packages:
        said = [*update.stderr.splitlines(), *download.stderr.splitlines()]
        complaints = "\n".join(line for line in said if line[:2] in {"E:", "W:"})
        return complaints.strip() or f"apt gave no {package} of {suite}"
    into.mkdir(parents=True, exist_ok=True)
    subprocess.run(["dpkg-deb", "-x", str(packages[0]), str(into)], check=True, capture_output=True)
    return None


def _private_configuration(folder: Path, uri: str, suite: str, key: Path) -> Path:
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "sources.list").write_text(f"deb [signed-by={key}] {uri} {suite} main\n", encoding="utf-8")
    # Proxies and certificates of this machine are kept; its hooks are not, they would touch the system.
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    kept = [
        line
        for line in dump.splitlines()
        if line.startswith("Acquire::") and not line.startswith("Acquire::IndexTargets")
    ]
    configuration = folder / "apt.conf"
    configuration.write_text(
        "\n".join(
            [
                *kept,
                'Dir::Etc::Main "/dev/null";',
                'Dir::Etc::Parts "/dev/null";',
                'Dir::Etc::SourceParts "/dev/null";',
                f'Dir::Etc::SourceList "{folder}/sources.list";',
                f'Dir::State "{folder}/state";',
                'Dir::State::status "/dev/null";',
                f'Dir::Cache "{folder}/cache";',
                'Acquire::Languages "none";',
                'Acquire::Check-Valid-Until "false";',
                'Acquire::http::Timeout "20";',
                'Acquire::https::Timeout "20";',
                'Acquire::Retries "1";',
                'APT::Sandbox::User "";',
                "",
            ]
        ),
        encoding="utf-8",
    )
    return configuration
