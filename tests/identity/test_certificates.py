from __future__ import annotations

import hashlib
import ssl
import time
from pathlib import Path

import pytest

from aimer2.core.errors import BadInput
from aimer2.identity.certificates import fingerprint, make_certificate
from aimer2.identity.secret_files import write_secret


def shake_hands(folder: Path, name: str, key: bytes, certificate: bytes) -> bytes:
    """A TLS handshake in memory with a client that trusts this certificate alone; the certificate it saw, as DER."""
    write_secret(folder / "key.pem", key)
    (folder / "certificate.pem").write_bytes(certificate)
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    client_side = ssl.create_default_context(cafile=str(folder / "certificate.pem"))
    client_side.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    client = client_side.wrap_bio(to_client, to_server, server_hostname=name)
    for side in [client, server, client, server]:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    seen = client.getpeercert(binary_form=True)
    assert seen is not None
    return seen


@pytest.mark.parametrize("name", ["coordinator.hospital.example", "localhost", "127.0.0.1", "::1"])
def test_a_client_that_trusts_it_accepts_it_for_its_names(tmp_path: Path, name: str) -> None:
    key, certificate = make_certificate(["coordinator.hospital.example", "localhost", "127.0.0.1", "::1"], now=time.time())
    seen = shake_hands(tmp_path, name, key, certificate)
    assert fingerprint(seen) == fingerprint(certificate) == hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.decode())).hexdigest()


def test_not_for_another_name(tmp_path: Path) -> None:
    key, certificate = make_certificate(["localhost"], now=time.time())
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(tmp_path, "other.example", key, certificate)


def test_not_after_its_days(tmp_path: Path) -> None:
    key, certificate = make_certificate(["localhost"], now=time.time() - 11 * 86_400, days=10)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shake_hands(tmp_path, "localhost", key, certificate)


def test_a_client_whose_clock_is_behind_accepts_it(tmp_path: Path) -> None:
    key, certificate = make_certificate(["localhost"], now=time.time() + 3000)
    shake_hands(tmp_path, "localhost", key, certificate)


@pytest.mark.parametrize("names", [[], [""], ["https://a.example"], ["a b"], ["a.example:443"], ["klinik-köln.example"]])
def test_what_is_no_name(names: list[str]) -> None:
    with pytest.raises(BadInput):
        make_certificate(names, now=0.0)


@pytest.mark.parametrize("content", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\njunk\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate(content: bytes) -> None:
    with pytest.raises(BadInput):
        fingerprint(content)
