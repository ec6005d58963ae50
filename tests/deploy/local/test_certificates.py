"""The local certificate authority: who is named, what is refused, when it is renewed."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from deploy.local.certificates import Leaf, ensure_certificates, host_on

NOW = datetime(2030, 1, 15, tzinfo=UTC)
LEAVES = [
    Leaf("storage", "loupe://service/storage"),
    Leaf("trainer-north-a", "loupe://trainer/north/a"),
    Leaf("nats"),
    Leaf("deploy", "loupe://service/deploy", server=False),
]


def load(folder: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())


def names(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def test_each_certificate_names_its_process(tmp_path: Path) -> None:
    """A service's is good for who dials loopback, too; a trainer has no door for them."""
    ensure_certificates(tmp_path, LEAVES, NOW)
    found = names(load(tmp_path, "storage"))
    assert found.get_values_for_type(x509.UniformResourceIdentifier) == ["loupe://service/storage"]
    assert found.get_values_for_type(x509.DNSName) == ["localhost", "storage.service.loupe.internal"]
    assert [str(address) for address in found.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    found = names(load(tmp_path, "trainer-north-a"))
    assert found.get_values_for_type(x509.UniformResourceIdentifier) == ["loupe://trainer/north/a"]
    assert found.get_values_for_type(x509.DNSName) == ["a.north.trainer.loupe.internal"]
    assert found.get_values_for_type(x509.IPAddress) == []
    assert names(load(tmp_path, "nats")).get_values_for_type(x509.DNSName) == ["localhost"]
    # What only asks must not be able to stand for a server, and NATS names no caller.
    assert names(load(tmp_path, "deploy")).get_values_for_type(x509.DNSName) == []
    assert names(load(tmp_path, "nats")).get_values_for_type(x509.UniformResourceIdentifier) == []


def test_files_can_be_read_by_their_owner_only(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, LEAVES, NOW)
    assert {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {
        f"{name}.{kind}": 0o600
        for name in ("ca", "storage", "trainer-north-a", "nats", "deploy")
        for kind in ("pem", "key")
    }


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    assert ensure_certificates(tmp_path, LEAVES, NOW) == ["ca", "storage", "trainer-north-a", "nats", "deploy"]
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert ensure_certificates(tmp_path, LEAVES, NOW + timedelta(days=300)) == []
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_leaves_are_renewed_in_their_last_thirty_days(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, LEAVES, NOW)
    authority = load(tmp_path, "ca")
    later = NOW + timedelta(days=340)
    assert ensure_certificates(tmp_path, LEAVES, later) == [leaf.name for leaf in LEAVES]
    assert load(tmp_path, "ca") == authority
    assert load(tmp_path, "storage").not_valid_after_utc == later + timedelta(days=365)


def test_a_new_authority_replaces_every_certificate(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, LEAVES, NOW)
    (tmp_path / "ca.key").unlink()
    assert ensure_certificates(tmp_path, LEAVES, NOW) == ["ca", *(leaf.name for leaf in LEAVES)]


@pytest.mark.parametrize("damage", ["key of another", "cut off", "other caller"])
def test_what_does_not_fit_is_made_anew(tmp_path: Path, damage: str) -> None:
    ensure_certificates(tmp_path, LEAVES, NOW)
    wanted = LEAVES
    if damage == "key of another":
        (tmp_path / "storage.key").write_bytes((tmp_path / "nats.key").read_bytes())
    elif damage == "cut off":
        (tmp_path / "storage.pem").write_bytes((tmp_path / "storage.pem").read_bytes()[:100])
    else:
        wanted = [Leaf("storage", "loupe://service/scheduler"), *LEAVES[1:]]
    assert ensure_certificates(tmp_path, wanted, NOW) == ["storage"]
    assert ensure_certificates(tmp_path, wanted, NOW) == []


def test_certificates_from_before_they_named_a_host_are_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr(Leaf, "host", "")
        ensure_certificates(tmp_path, LEAVES, NOW)
        assert host_on(tmp_path / "storage.pem") == ""
    assert ensure_certificates(tmp_path, LEAVES, NOW) == ["storage", "trainer-north-a"]
    assert host_on(tmp_path / "storage.pem") == "storage.service.loupe.internal"


@pytest.mark.parametrize(("same_authority", "accepted"), [(True, True), (False, False)])
def test_mutual_tls_holds_only_under_the_same_authority(tmp_path: Path, same_authority: bool, accepted: bool) -> None:
    now = datetime.now(UTC)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
        ensure_certificates(folder, LEAVES, now)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ours / "ca.pem")
    server.load_cert_chain(ours / "storage.pem", ours / "storage.key")
    server.verify_mode = ssl.CERT_REQUIRED
    caller = ours if same_authority else theirs
    client = ssl.create_default_context(cafile=ours / "ca.pem")
    client.load_cert_chain(caller / "deploy.pem", caller / "deploy.key")
    seen: list[object] = []

    def serve(connection: socket.socket) -> None:
        try:
            with server.wrap_socket(connection, server_side=True) as secured:
                seen.append(dict(secured.getpeercert() or {})["subjectAltName"])
        except ssl.SSLError as error:
            seen.append(error)

    one, other = socket.socketpair()
    thread = threading.Thread(target=serve, args=(one,))
    thread.start()
    try:
        with client.wrap_socket(other, server_hostname="127.0.0.1") as secured:
            secured.recv(1)
    except (ssl.SSLError, ConnectionError):
        pass
    thread.join(10)
    one.close()
    assert (seen == [(("URI", "loupe://service/deploy"),)]) is accepted
