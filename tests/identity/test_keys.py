from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from aimer2.core.errors import BadInput, Conflict, NotAllowed, NotFound, Tampered
from aimer2.identity.keys import PublicKey, SigningKey
from aimer2.identity.secret_files import read_secret, write_secret

# RFC 8032 §7.1, test 2.
PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
MESSAGE = bytes.fromhex("72")
SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


def test_a_published_signature_verifies() -> None:
    PublicKey(PUBLIC).verify(SIGNATURE, MESSAGE)


def test_a_flipped_bit_or_a_short_signature_is_found() -> None:
    key = SigningKey.generate()
    signature = key.sign(b"study")
    key.public.verify(signature, b"study")
    for forged, message in [
        (signature, b"studz"),
        (bytes([signature[0] ^ 1]) + signature[1:], b"study"),
        (signature[:-1], b"study"),
        (b"", b"study"),
        (SigningKey.generate().sign(b"study"), b"study"),
    ]:
        with pytest.raises(Tampered):
            key.public.verify(forged, message)


def test_the_text_of_a_key_is_the_one_of_rfc_8037_and_comes_back() -> None:
    raw = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    key = PublicKey(raw)
    assert key.text == "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    assert PublicKey.from_text(key.text) == key
    assert hash(PublicKey.from_text(key.text)) == hash(key)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHUR",
        "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURp",  # same 32 bytes for a lenient decoder
        "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
        "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        "ü" * 43,
    ],
)
def test_a_key_has_one_spelling(text: str) -> None:
    with pytest.raises(BadInput):
        PublicKey.from_text(text)


def test_fingerprint_and_key_id_are_digits_of_sha256() -> None:
    key = PublicKey(PUBLIC)
    digits = "39f713d0a644253f04529421b9f51b9b08979d08295959c4f3990ee617f5139f"  # sha256sum of the 32 bytes
    number = "26218380352605814701457579748124372638242267572840474511145897116149629653919"  # the same in decimal, by bc
    groups = key.fingerprint.split(" ")
    assert [len(group) for group in groups] == [5] * 8
    assert "".join(groups) == number[-40:]
    assert key.key_id == digits[:16]


def test_a_fingerprint_may_be_written_down_in_any_groups_but_every_digit_counts() -> None:
    key = PublicKey(PUBLIC)
    digits = key.fingerprint.replace(" ", "")
    for written in (key.fingerprint, digits, f" {key.fingerprint.replace(' ', '-')}\n", "\t".join(digits)):
        assert key.has_fingerprint(written)
    for place in range(40):
        wrong = digits[:place] + str((int(digits[place]) + 1) % 10) + digits[place + 1 :]
        assert not key.has_fingerprint(wrong)


@pytest.mark.parametrize("told", ["", "1" * 39, "1" * 41, "39f7 13d0 a644 253f 0452 9421 b9f5 1b9b", "x" * 40, "١" * 40, "+" + "1" * 39])
def test_a_part_of_a_fingerprint_is_none(told: str) -> None:
    with pytest.raises(BadInput, match="40 digits"):
        PublicKey(PUBLIC).has_fingerprint(told)


def test_a_fingerprint_keeps_its_leading_zeros() -> None:
    found = next(key for key in (PublicKey(hashlib.sha256(bytes([n])).digest()) for n in range(200)) if key.fingerprint.startswith("0"))
    assert len(found.fingerprint) == 47


def test_a_saved_key_is_private_and_loads_again(tmp_path: Path) -> None:
    key = SigningKey.generate()
    path = tmp_path / "site.key"
    previous = os.umask(0)
    try:
        key.save(path)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----\n")
    assert SigningKey.load(path).public == key.public
    assert list(tmp_path.iterdir()) == [path]


def test_a_key_is_never_overwritten_not_even_through_a_link(tmp_path: Path) -> None:
    path = tmp_path / "site.key"
    SigningKey.generate().save(path)
    before = path.read_bytes()
    with pytest.raises(Conflict):
        SigningKey.generate().save(path)
    assert path.read_bytes() == before
    dangling = tmp_path / "link.key"
    dangling.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Conflict):
        SigningKey.generate().save(dangling)
    assert sorted(tmp_path.iterdir()) == [dangling, path]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_key_that_others_have_access_to_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "site.key"
    SigningKey.generate().save(path)
    path.chmod(mode)
    with pytest.raises(NotAllowed, match=f"{mode:04o}") as refused:
        SigningKey.load(path)
    assert f"chmod 600 {path}" in refused.value.advice


def test_what_is_no_ed25519_key_is_refused(tmp_path: Path) -> None:
    curve = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    locked = SigningKey.generate().ed25519.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    for number, content in enumerate([b"", b"no key", curve, locked]):
        path = tmp_path / f"{number}.key"
        write_secret(path, content)
        assert read_secret(path) == content
        with pytest.raises(BadInput):
            SigningKey.load(path)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        SigningKey.load(tmp_path / "site.key")
    with pytest.raises(NotFound):
        SigningKey.generate().save(tmp_path / "missing" / "site.key")


def test_a_private_key_is_not_shown() -> None:
    key = SigningKey.generate()
    assert key.ed25519.private_bytes_raw().hex() not in repr(key)
    assert "rivate" not in repr(key)
