"""Where Consul comes from, in which order, and what is said when it comes from nowhere."""

from __future__ import annotations

import hashlib
import io
import platform
import zipfile
from pathlib import Path

import pytest

from deploy.local import consul_binary
from deploy.local.apt import AptError
from deploy.local.consul_binary import consul_version, find_consul
from deploy.local.errors import ConsulMissingError, DeployError


def script(path: Path, version: str = "1.9.0", status: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho Consul v{version}\nexit {status}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def nothing_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Consul is found and none can be fetched, unless a test says so."""

    def no_package(*_: object) -> None:
        raise AptError("the archive does not answer")

    def no_network(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.delenv("LOUPE_CONSUL", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin")
    monkeypatch.setattr(consul_binary, "fetch_package", no_package)
    monkeypatch.setattr(consul_binary.urllib.request, "urlopen", no_network)


def release(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("consul", content)
    return file.getvalue()


def test_the_named_one_comes_first_and_has_no_substitute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path / "bin" / "consul")
    named = script(tmp_path / "named")
    monkeypatch.setenv("LOUPE_CONSUL", str(named))
    assert find_consul(cache=tmp_path / "cache") == named
    script(named, status=1)
    with pytest.raises(DeployError, match="not a Consul that runs"):
        find_consul(cache=tmp_path / "cache")


def test_the_one_on_path_comes_next_if_it_runs(tmp_path: Path) -> None:
    cached = script(tmp_path / "cache" / "debian-bullseye" / "consul")
    on_path = script(tmp_path / "bin" / "consul")
    assert find_consul(cache=tmp_path / "cache") == on_path
    script(on_path, status=1)
    assert find_consul(cache=tmp_path / "cache") == cached


def test_debians_package_is_kept_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def package(name: str, suite: str, into: Path) -> None:
        fetched.append((name, suite))
        script(into / "usr/bin/consul")

    monkeypatch.setattr(consul_binary, "fetch_package", package)
    first = find_consul(cache=tmp_path / "cache")
    assert find_consul(cache=tmp_path / "cache") == first
    assert fetched == [("consul", "bullseye")]


def test_a_release_with_another_checksum_is_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = release(b"#!/bin/sh\necho Consul v1.15.4\n")
    monkeypatch.setattr(consul_binary.urllib.request, "urlopen", lambda *_, **__: io.BytesIO(archive))
    with pytest.raises(ConsulMissingError, match="thrown away"):
        find_consul(cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("consul"))
    machine = consul_binary._MACHINES[platform.machine()]
    monkeypatch.setitem(consul_binary._RELEASE_SHA256, machine, hashlib.sha256(archive).hexdigest())
    assert find_consul(cache=tmp_path / "cache") == tmp_path / "cache" / "1.15.4" / "consul"


def test_when_nothing_works_every_way_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConsulMissingError) as caught:
        find_consul(cache=tmp_path / "cache")
    for word in ("LOUPE_CONSUL", "PATH", "the archive does not answer", "no network", "Install Consul 1.8"):
        assert word in str(caught.value)


def test_versions_are_numbers(tmp_path: Path) -> None:
    assert consul_version(script(tmp_path / "new", "1.15.4")) == (1, 15, 4)
    assert consul_version(script(tmp_path / "old", "1.8.7+dfsg1-2")) == (1, 8, 7)
    with pytest.raises(DeployError, match="does not run"):
        consul_version(tmp_path / "missing")
