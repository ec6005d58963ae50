"""Which Debian archives stand in an apt configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.local.apt import (
    AptError,
    Source,
    archives,
    configured_archives,
    fetch_package,
    parse_deb822,
    parse_one_line,
)

ONE_LINE = """
# deb http://commented.example/debian bookworm main
deb http://mirror.example/debian bookworm main contrib  # trailing
deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] https://other.example/debian/ bookworm-updates main
deb-src http://mirror.example/debian bookworm main
deb\thttp://tabs.example/debian\tbookworm\tmain
deb cdrom:[Debian GNU/Linux 12]/ bookworm main
nonsense
"""

DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://one.example/debian http://two.example/debian
Suites: bookworm bookworm-updates
Components: main
# comment inside
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs:
 http://folded.example/debian
Suites: bookworm
Components: main
 contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBF
 -----END PGP PUBLIC KEY BLOCK-----

Enabled: no
Types: deb
URIs: http://disabled.example/debian
Suites: bookworm
Components: main
\t
Types: deb-src
URIs: http://source.example/debian
Suites: bookworm
Components: main

types: deb
uris: http://flat.example/repository
suites: ./
"""


def test_one_line_format() -> None:
    assert [(source.uri, source.suites, source.components) for source in parse_one_line(ONE_LINE)][:3] == [
        ("http://mirror.example/debian", ("bookworm",), ("main", "contrib")),
        ("https://other.example/debian/", ("bookworm-updates",), ("main",)),
        ("http://tabs.example/debian", ("bookworm",), ("main",)),
    ]


def test_stanza_format() -> None:
    both = ("bookworm", "bookworm-updates")
    assert parse_deb822(DEB822) == [
        Source("http://one.example/debian", both, ("main",)),
        Source("http://two.example/debian", both, ("main",)),
        Source("http://folded.example/debian", ("bookworm",), ("main", "contrib")),
        Source("http://flat.example/repository", ("./",), ()),
    ]


def test_archives_that_cannot_hold_a_release_are_left_out() -> None:
    assert archives(
        [
            Source("http://a.example/debian-security", ("bookworm-security",), ("main",)),
            Source("cdrom:[Debian", ("GNU/Linux",), ("12]/", "bookworm", "main")),
            Source("http://b.example/tools", ("stable",), ("tools",)),
            Source("http://c.example/mirror", ("bookworm",), ("main",)),
            Source("http://d.example/debian/", ("bookworm",), ("main",)),
            Source("http://d.example/debian", ("bookworm-updates",), ("main",)),
        ]
    ) == ["http://d.example/debian", "http://c.example/mirror"]


def test_both_formats_are_read_from_where_apt_reads_them(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text("deb http://a.example/debian bookworm main\n", encoding="utf-8")
    (parts / "b.list").write_text("deb http://b.example/debian bookworm main\n", encoding="utf-8")
    (parts / "c.sources").write_text(DEB822.split("\n\n", maxsplit=1)[0], encoding="utf-8")
    (parts / "d.list.disabled").write_text("deb http://d.example/debian bookworm main\n", encoding="utf-8")
    assert configured_archives(tmp_path) == [f"http://{host}.example/debian" for host in ("a", "b", "one", "two")]


def test_a_machine_without_apt_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AptError, match="no apt-get"):
        fetch_package("consul", "bullseye", tmp_path)
