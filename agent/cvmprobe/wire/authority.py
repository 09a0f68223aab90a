"""The collector's own certificate authority. The only importer of cryptography; agents never import this module."""

import datetime as dt
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cvmprobe.errors import ConfigError

__all__ = ["CertificateAuthority"]

_CA_DAYS = 3650
_LEAF_DAYS = 30
_CLOCK_SKEW = dt.timedelta(minutes=10)
_CERTIFICATE, _KEY = "ca.crt", "ca.key"


class CertificateAuthority:
    """Issues server certificates for names it is told. Made once per directory, kept there."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def load_or_create(cls, directory: Path) -> "CertificateAuthority":
        """Load ``ca.crt`` and ``ca.key`` (0600) of ``directory``, or make them there when there is no certificate.

        The certificate is written last: a key without one is left over from a start that was killed.
        Raises ConfigError when they are unreadable or no pair.
        """
        certificate_path, key_path = directory / _CERTIFICATE, directory / _KEY
        if not certificate_path.exists():
            certificate, key = _self_signed()
            try:
                _write(key_path, _key_pem(key), mode=0o600)
                _write(certificate_path, _certificate_pem(certificate), mode=0o644)
            except OSError as error:
                raise ConfigError(
                    f"no certificate authority can be made in {directory}: {error.strerror}; make room there, once"
                ) from error
            return cls(certificate, key)
        try:
            certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
            stored = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(
                f"certificate authority in {directory} cannot be read: {error}; restore or remove both files"
            ) from error
        if not isinstance(stored, ec.EllipticCurvePrivateKey) or stored.public_key() != certificate.public_key():
            raise ConfigError(f"{certificate_path} and {key_path} are no pair; restore or remove both files")
        return cls(certificate, stored)

    @property
    def certificate_pem(self) -> bytes:
        """The CA's own certificate: what clients must trust."""
        return _certificate_pem(self._certificate)

    def issue(self, names: Sequence[str]) -> tuple[bytes, bytes]:
        """Make a server certificate for ``names`` (DNS names or addresses), good for 30 days.

        Returns (certificate PEM, private key PEM).
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
        certificate = (
            _builder(subject, self._certificate.subject, key.public_key(), _LEAF_DAYS)
            .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        return _certificate_pem(certificate), _key_pem(key)


def _self_signed() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cvmprobe CA")])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(name, name, key.public_key(), _CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    """Write a file that is never there half: with its final mode from the first byte on, then renamed into place."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
