"""A certificate authority of the mesh's own, and the certificates it signs."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from deploy.local.files import write_private
from loupe.identity import process_of
from loupe.names import host_of

AUTHORITY_LIFE = timedelta(days=3650)
LEAF_LIFE = timedelta(days=365)
RENEW_BEFORE_END = timedelta(days=30)
_CLOCK_SKEW = timedelta(minutes=5)
_LOOPBACK: tuple[x509.GeneralName, ...] = (
    x509.DNSName("localhost"),
    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
)


@dataclass(frozen=True)
class Leaf:
    """One certificate that is wanted: the file name, the caller it names, and what it may be used for."""

    name: str
    uri: str = ""
    """SAN URI, `loupe://service/<name>` or `loupe://trainer/<cluster>/<trainer>`; empty: it names no caller."""
    server: bool = True
    """Whether it may stand for a server."""

    @property
    def host(self) -> str:
        """The SAN host name by which clients inside the mesh know the server; empty: it names no caller."""
        caller = process_of(self.uri)
        return host_of(caller.trainer or caller.service or "") if caller else ""

    @property
    def on_loopback(self) -> bool:
        """Whether a terminal that dials loopback may take it for a door: not a trainer's, which has none for it."""
        caller = process_of(self.uri)
        return caller is None or caller.trainer is None


def ensure_certificates(folder: Path, leaves: Sequence[Leaf], now: datetime) -> list[str]:
    """Make what is missing, wrong or within 30 days of its end; return the names it made.

    `folder` then holds ca.pem, ca.key and <name>.pem, <name>.key for every leaf. A new authority replaces every
    certificate. `now` is timezone-aware.
    """
    made = []
    authority = _load(folder, "ca")
    if authority is None or _ends_soon(authority[0], now):
        authority = _new_authority(now)
        _save(folder, "ca", *authority)
        made.append("ca")
    for leaf in leaves:
        current = _load(folder, leaf.name)
        if current is None or not _fits(current[0], leaf, authority[0], now):
            _save(folder, leaf.name, *_new_leaf(leaf, *authority, now))
            made.append(leaf.name)
    return made


def host_on(file: Path) -> str:
    """Return the host name on a certificate of the mesh; empty where there is none, as on those made before 0.2."""
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return next((name for name in names.get_values_for_type(x509.DNSName) if name.endswith(".internal")), "")


def _load(folder: Path, name: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None:
    """Return a certificate with its key; None when one is missing or broken or they are not a pair."""
    try:
        certificate = x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())
        key = serialization.load_pem_private_key((folder / f"{name}.key").read_bytes(), password=None)
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        return None  # a set-up killed between writing the two files leaves such a pair
    return certificate, key


def _save(folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_private(folder / f"{name}.key", pem)
    write_private(folder / f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM))


def _ends_soon(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_after_utc - now < RENEW_BEFORE_END or certificate.not_valid_before_utc > now


def _fits(certificate: x509.Certificate, leaf: Leaf, authority: x509.Certificate, now: datetime) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return not _ends_soon(certificate, now) and list(names) == _names(leaf) and list(usage) == _usages(leaf)


def _names(leaf: Leaf) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    if leaf.server and leaf.on_loopback:
        names += _LOOPBACK
    if leaf.server and leaf.host:
        names.append(x509.DNSName(leaf.host))
    if leaf.uri:
        names.append(x509.UniformResourceIdentifier(leaf.uri))
    return names


def _usages(leaf: Leaf) -> list[x509.ObjectIdentifier]:
    return [
        *([ExtendedKeyUsageOID.SERVER_AUTH] if leaf.server else []),
        *([ExtendedKeyUsageOID.CLIENT_AUTH] if leaf.uri else []),
    ]


def _new_authority(now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Loupe local mesh")])
    certificate = (
        _builder(name, name, key, now, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def _new_leaf(
    leaf: Leaf, authority: x509.Certificate, authority_key: ec.EllipticCurvePrivateKey, now: datetime
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    # A common name holds 64 characters at most; the SAN is what is looked at.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, leaf.name[:64])])
    issuer_id = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        _builder(name, authority.subject, key, now, LEAF_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(_usages(leaf)), critical=False)
        .add_extension(x509.SubjectAlternativeName(_names(leaf)), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    return certificate, key


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
