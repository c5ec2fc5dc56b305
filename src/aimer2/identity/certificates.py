"""A TLS certificate for a coordinator that has none from an authority: self-signed, trusted by its fingerprint."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aimer2.core.errors import BadInput
from aimer2.core.said import say

_PEM_BEGIN = b"-----BEGIN CERTIFICATE-----"


def make_certificate(names: Sequence[str], *, now: float, days: int = 825) -> tuple[bytes, bytes]:
    """A new ECDSA P-256 key and its certificate for these DNS names and IP addresses, both as PEM: (key, certificate).

    The key is a secret: write it with `secret_files.write_secret`. Valid from an hour before ``now``, as the sites' clocks may be behind.
    825 days is the longest that Apple's systems accept. Raises BadInput if a name is neither a DNS name nor an address.
    """
    if not names:
        raise BadInput("A certificate needs at least one DNS name or IP address.")
    key = ec.generate_private_key(ec.SECP256R1())
    start = datetime.fromtimestamp(int(now), UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "AIMER2 coordinator")])
    builder = (
        x509.CertificateBuilder(subject_name=subject, issuer_name=subject, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - timedelta(hours=1))
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    certificate = builder.sign(key, hashes.SHA256())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), certificate.public_bytes(Encoding.PEM)


def fingerprint(certificate: bytes) -> str:
    """SHA-256 of a certificate (PEM, of which the first one counts, or DER) as 64 hexadecimal digits; raises BadInput."""
    try:
        if _PEM_BEGIN in certificate:
            parsed = x509.load_pem_x509_certificate(certificate)
        else:
            parsed = x509.load_der_x509_certificate(certificate)
    except ValueError as error:
        raise BadInput("This is not a certificate in PEM or DER.") from error
    return hashlib.sha256(parsed.public_bytes(Encoding.DER)).hexdigest()


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        if not name or any(character.isspace() or character in ":/" for character in name):
            raise ValueError(name)
        return x509.DNSName(name)
    except ValueError as error:
        raise BadInput(say("'{name}' is neither a DNS name nor an IP address.", name=name)) from error
