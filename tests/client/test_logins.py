from __future__ import annotations

import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import urllib3

from aimer2.client.browser import HandedOn
from aimer2.client.https import proxy_of
from aimer2.client.logins import Logins, SavedLogin, connect
from aimer2.client.transport import Address, Transport
from aimer2.core.errors import BadInput, NotAllowed, NotAuthenticated
from aimer2.identity.keys import SigningKey

KEY = SigningKey.generate().public.text


@dataclass
class Fixed:
    moment: float

    def now(self) -> float:
        return self.moment

    def monotonic(self) -> float:
        return self.moment


def saved(url: str = "https://a.example", expires: float = 100.0) -> SavedLogin:
    return SavedLogin(url, "ada", "secret-token", expires, KEY, "ab" * 32)


def test_only_the_owner_can_read_the_file(tmp_path: Path) -> None:
    logins = Logins(tmp_path / "new" / "aimer2")
    logins.save(saved())
    assert stat.S_IMODE(logins.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(logins.folder.stat().st_mode) == 0o700
    assert logins.find() == saved()
    assert [path.name for path in logins.folder.iterdir()] == ["logins.json"]
    logins.file.chmod(0o640)
    with pytest.raises(NotAllowed):
        logins.find()


def test_the_token_is_in_no_repr() -> None:
    assert "secret-token" not in repr(saved())


def test_one_login_needs_no_choice_and_several_do(tmp_path: Path) -> None:
    logins = Logins(tmp_path)
    with pytest.raises(NotAuthenticated, match="not logged in"):
        logins.find()
    logins.save(saved())
    logins.save(saved("https://b.example"))
    with pytest.raises(BadInput, match=r"https://a\.example.*https://b\.example"):
        logins.find()
    assert logins.find("https://b.example/").url == "https://b.example"
    logins.forget("https://a.example")
    assert logins.find().url == "https://b.example"


def test_a_second_login_replaces_the_first(tmp_path: Path) -> None:
    logins = Logins(tmp_path)
    logins.save(saved())
    logins.save(saved(expires=200.0))
    assert logins.find().expires == 200.0


def test_an_expired_login_says_how_to_log_in_again() -> None:
    with pytest.raises(NotAuthenticated) as caught:
        saved().open(Fixed(100.0))
    assert caught.value.advice == "Run `aimer2 login https://a.example --user ada`."
    assert saved().open(Fixed(99.0)).url == "https://a.example"


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    logins = Logins(tmp_path)
    logins.save(saved())
    logins.file.write_text('[{"url": "https://a.example"}]')
    with pytest.raises(BadInput, match="damaged"):
        logins.all()


def test_a_script_gives_its_token_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIMER2_HOME", str(tmp_path / "nothing"))
    monkeypatch.setenv("AIMER2_TOKEN", "t")
    assert connect("https://c.example", Fixed(0)).url == "https://c.example"
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("url", ["http://a.example", "a.example", "https://", "https://a.example/path", "https://a.example?x=1"])
def test_an_address_without_tls_is_refused(url: str) -> None:
    with pytest.raises(BadInput, match="address"):
        Address(url)


def test_a_fingerprint_may_be_written_with_colons() -> None:
    assert Address("https://a.example/", fingerprint=":".join(["AB"] * 32)) == Address("https://a.example", fingerprint="ab" * 32)
    with pytest.raises(BadInput, match="64 hexadecimal"):
        Address("https://a.example", fingerprint="ab" * 20)
    with pytest.raises(BadInput, match="not both"):
        Address("https://a.example", fingerprint="ab" * 32, ca_file=Path("ca.pem"))


def test_the_proxy_of_the_environment_is_used_unless_excepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "inside.example,127.0.0.1")
    assert proxy_of("https://coordinator.example:8443") == "http://proxy.example:3128"
    assert proxy_of("https://inside.example:8443") is None
    assert proxy_of("https://127.0.0.1:8443") is None


def test_a_missing_file_of_authorities_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="There is no file"):
        Transport(Address("https://a.example", ca_file=tmp_path / "none.pem"))


def test_a_connection_that_a_browser_opens_in_advance_keeps_nobody_waiting() -> None:
    handed_on, idle = HandedOn("https://a.example"), socket.socket()

    def browser(address: str) -> None:
        port = int(parse_qs(urlsplit(address).query)["port"][0])
        idle.connect(("127.0.0.1", port))
        assert urllib3.request("GET", f"http://127.0.0.1:{port}/favicon.ico", retries=False).status == 404
        assert urllib3.request("GET", f"http://127.0.0.1:{port}/?code=abc", retries=False).status == 200

    with idle:
        assert handed_on.wait(browser, 30) == "abc"
        with pytest.raises(NotAuthenticated):
            handed_on.wait(lambda _: None, 0.01)
