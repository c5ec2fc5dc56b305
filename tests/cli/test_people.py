"""Tokens, parts in studies and the consortium, as people ask for them at the command line."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest

from aimer2.cli.federation import RESEARCHER, Federation
from aimer2.client.transport import fetch_fingerprint


@pytest.fixture
def operator(command: Any, federation: Federation, tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """The command in an operator's hands."""
    name = f"operator-{request.node.name}"[:60]
    password = tmp_path / "operator.password"
    password.write_text(_added(federation, name, "--role", "operator"))
    told = command("login", federation.url, "--user", name, "--fingerprint", fetch_fingerprint(federation.url), "--password-file", password)
    assert told.status == 0, told.err
    return command


def _added(federation: Federation, name: str, *role: str) -> str:
    return federation.command("coordinator", "user", "add", name, *role).rsplit(" ", 1)[1].strip()


BROWSER = """#!{python}
import re, sys, urllib3
from urllib.parse import urlencode, urlsplit
page = urlsplit(sys.argv[1])
web, form = urllib3.PoolManager(assert_fingerprint="{pin}", cert_reqs="CERT_NONE"), {{"Content-Type": "application/x-www-form-urlencoded"}}
def send(path, **fields):
    return web.request("POST", f"{{page.scheme}}://{{page.netloc}}{{path}}", body=urlencode(fields), headers=form, redirect=False)
form["Cookie"] = send("/login", user="{user}", password="{password}").headers["set-cookie"].partition(";")[0]
shown = web.request("GET", page.geturl(), headers=form).data.decode()
fields = dict(re.findall(r'name="(csrf|challenge|port)" value="([^"]*)"', shown))
urllib3.request("GET", send("/command-line", **fields).headers["refresh"].partition("url=")[2])
"""


def test_a_browser_logs_the_command_line_in(command: Any, federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user, pin, browser = "by-browser", fetch_fingerprint(federation.url), tmp_path / "browser"
    browser.write_text(BROWSER.format(python=sys.executable, pin=pin, user=user, password=_added(federation, user, "--role", "researcher")))
    browser.chmod(0o700)
    monkeypatch.setenv("BROWSER", str(browser))
    told = command("login", federation.url, "--browser", "--fingerprint", pin)
    assert told.status == 0, told.err
    assert f"as {user} until" in told.out
    assert command("token", "list").status == 0
    assert command("login", federation.url, "--fingerprint", pin).status == command("login", federation.url, "--browser", "--user", user).status != 0


def test_a_script_works_with_a_token_until_it_is_revoked(logged_in: Any, federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    made = logged_in("token", "create", "nightly", "--days", "2")
    token = made.out.strip()
    assert made.status == 0 and len(token) == 43 and token not in made.err
    told = logged_in("token", "list")
    assert "nightly" in told.out and token not in told.out

    def as_script() -> int:
        with monkeypatch.context() as script:
            script.setenv("AIMER2_TOKEN", token)
            script.setenv("AIMER2_URL", federation.url)
            script.setenv("AIMER2_FINGERPRINT", fetch_fingerprint(federation.url))
            return int(logged_in("sites").status)

    assert as_script() == 0
    assert logged_in("token", "create", "wide", "--role", "operator").status == 3
    assert logged_in("token", "revoke", "nightly").status == 0
    assert as_script() == 3
    assert logged_in("token", "revoke", "nightly").status == 4


def test_who_works_on_a_study(logged_in: Any, operator: Any, federation: Federation, write_study: Any, tmp_path: Path) -> None:
    guest = "guest-of-a-study"
    _added(federation, guest, "--role", "researcher")
    pin, password = fetch_fingerprint(federation.url), tmp_path / "password"
    assert logged_in("login", federation.url, "--user", RESEARCHER, "--fingerprint", pin, "--password-file", password).status == 0
    assert logged_in("study", "submit", write_study("shared", 1)).status == 0
    assert logged_in("study", "people", "add", "shared", guest, "--part", "auditor").status == 3, "a researcher does not hand out parts"
    own = tmp_path / "operator.password"
    name = "operator-test_who_works_on_a_study"
    assert operator("login", federation.url, "--user", name, "--fingerprint", pin, "--password-file", own).status == 0
    assert operator("study", "people", "add", "shared", guest, "--part", "auditor").status == 0
    told = operator("study", "people", "list", "shared").out
    assert RESEARCHER in told and guest in told
    assert operator("study", "people", "remove", "shared", guest).status == 0
    assert guest not in operator("study", "people", "list", "shared").out


def test_the_consortium(operator: Any, command: Any, federation: Federation, tmp_path: Path) -> None:
    invited = operator("consortium", "invite", "south")
    assert invited.out.startswith("aimer2-invite.")
    shown = operator("consortium", "invitations").out
    identifier = next(line.split()[0] for line in shown.splitlines() if "south" in line and "open" in line)
    assert operator("consortium", "uninvite", identifier).status == 0
    assert operator("consortium", "uninvite", identifier).status == 4
    document = tmp_path / "agreement.txt"
    document.write_text("We agree.")
    told = operator("consortium", "add-agreement", document, "--title", "Data use", "--dated", "2026-11-01")
    assert hashlib.sha256(b"We agree.").hexdigest()[:16] in told.out
    assert operator("consortium", "accept", document, "--by", "Dr X").status == 3
    password = tmp_path / "cora.password"
    password.write_text(_added(federation, "cora", "--role", "site-administrator", "--site", "north"))
    told = command("login", federation.url, "--user", "cora", "--fingerprint", fetch_fingerprint(federation.url), "--password-file", password)
    assert told.status == 0
    assert command("consortium", "accept", document, "--by", "Dr Ines Vogt").status == 0
    other = tmp_path / "other.txt"
    other.write_text("We agree on something else.")
    assert command("consortium", "accept", other, "--by", "Dr Ines Vogt").status == 4, "not exactly this document"
    assert "Dr Ines Vogt" in command("consortium", "agreements").out
    assert "north" in command("consortium", "members").out
    assert command("consortium", "off-board", "north", "--reason", "never mind").status == 3
