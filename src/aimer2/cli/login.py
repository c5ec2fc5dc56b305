"""`aimer2 login`: prove who you are to a coordinator whose certificate is checked, and keep the log-in."""

from __future__ import annotations

import functools
import sys
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import click

from aimer2.client.browser import HandedOn
from aimer2.client.coordinator import Coordinator
from aimer2.client.figures import printable
from aimer2.client.logins import Logins, SavedLogin, connect, home
from aimer2.client.transport import Address, fetch_fingerprint
from aimer2.core.clock import SystemClock, rfc3339
from aimer2.core.errors import BadInput, Conflict, NotAuthenticated
from aimer2.identity.keys import PublicKey
from aimer2.messages.wire import CoordinatorInfo, Token

CLOCK = SystemClock()
_BROWSER_SECONDS = 600.0


def at_coordinator(command: Callable[..., None]) -> Callable[..., None]:
    """The command's first argument is the coordinator where the person is logged in."""

    @click.option("--coordinator", "url", metavar="URL", envvar="AIMER2_URL", help="Which one, where you are logged in at several.")
    @functools.wraps(command)
    def connected(*given: Any, url: str | None, **options: Any) -> None:
        command(connect(url, CLOCK), *given, **options)

    return connected


@click.command()
@click.argument("url")
@click.option("--user", help="The name of your account.")
@click.option("--browser", is_flag=True, help="Log in on the coordinator's page, by its OpenID provider for instance.")
@click.option("--paste", is_flag=True, help="As --browser, on another computer: its page shows a code to paste here.")
@click.option("--fingerprint", metavar="SHA256", help="The only certificate to trust; its operator tells you.")
@click.option("--ca-file", type=click.Path(path_type=Path, exists=True, dir_okay=False, resolve_path=True), help="Authorities to trust (PEM).")
@click.option("--password-file", type=click.File("r"), help="'-': from standard input.")
def login(
    url: str, user: str | None, browser: bool, paste: bool, fingerprint: str | None, ca_file: Path | None, password_file: TextIO | None
) -> None:
    """Log in at a coordinator, with --user and a password, or with --browser.

    Its certificate is checked before the password is sent: by --fingerprint, by --ca-file, as at the last log-in, or by the public
    authorities. If none of them vouches for it, you are shown its fingerprint, to compare with what the operator has told you.
    """
    if (user is None) is not (browser or paste):
        raise BadInput("Say either who you are, or that a browser does.", remedy="Give --user NAME, or --browser, or --paste.")
    logins, address = Logins(home()), Address(url, fingerprint, ca_file)
    known = logins.all().get(address.url)
    if known is not None and fingerprint is None and ca_file is None:
        address = Address(address.url, known.fingerprint, None if known.ca_file is None else Path(known.ca_file))
    address, info = _trusted(address)
    if known is not None and known.key != info.key:
        raise Conflict(
            f"The coordinator at {address.url} has another signing key than at your last log-in: {PublicKey.from_text(info.key).fingerprint}",
            remedy=f"Compare it with the operator by telephone. If it is right: `aimer2 logout {address.url}`, then log in again.",
        )
    client = Coordinator(address.url, fingerprint=address.fingerprint, ca_file=address.ca_file, key=info.key)
    token = _through_browser(client, paste=paste) if user is None else client.login(user, _password(password_file))
    user = user or client.me().user
    expires = CLOCK.now() + token.expires_in
    authorities = None if address.ca_file is None else str(address.ca_file)
    logins.save(SavedLogin(address.url, user, token.access_token, expires, info.key, address.fingerprint, authorities))
    click.echo(f"Logged in at {printable(info.name)} as {user} until {rfc3339(int(expires))}.")
    click.echo(f"Its key, which signs results: {PublicKey.from_text(info.key).fingerprint}")


@click.command()
@click.argument("url", required=False)
@click.option("--everywhere", is_flag=True, help="On all machines and in all browsers.")
def logout(url: str | None, everywhere: bool) -> None:
    """End a log-in, at the coordinator and here; URL where there are several."""
    logins = Logins(home())
    found = logins.find(url)
    try:
        found.open(CLOCK).logout(everywhere=everywhere)
    except NotAuthenticated:
        # It has ended there already.
        if everywhere:
            raise
    finally:
        logins.forget(found.url)
    click.echo(f"Logged out of {found.url}{' everywhere' if everywhere else ''}.")


def _through_browser(client: Coordinator, *, paste: bool) -> Token:
    handed_on = HandedOn(client.url)
    if paste:
        click.echo(f"Open {handed_on.address()}\nThe page shows the mark {handed_on.mark}", err=True)
        return client.login_by_code(str(click.prompt("Code", hide_input=True, err=True)).strip(), handed_on.verifier)

    def open_page(address: str) -> None:
        click.echo(f"Your browser opens {address}\nThe page shows the mark {handed_on.mark}", err=True)
        webbrowser.open(address)

    return client.login_by_code(handed_on.wait(open_page, _BROWSER_SECONDS), handed_on.verifier)


def _trusted(address: Address) -> tuple[Address, CoordinatorInfo]:
    """What the coordinator says of itself, and how its certificate is trusted. Raises NotAuthenticated."""
    try:
        return address, _info(address)
    except NotAuthenticated:
        if address.fingerprint is not None or address.ca_file is not None:
            raise
    # No authority vouches for it, as for most coordinators: a person must.
    pinned = Address(address.url, _confirmed(address.url))
    return pinned, _info(pinned)


def _confirmed(url: str) -> str:
    shown = fetch_fingerprint(url)
    finding = f"No public authority vouches for the certificate of {url}. Its SHA-256 fingerprint is {shown}"
    if not sys.stdin.isatty():
        raise NotAuthenticated(finding, remedy=f"Compare it with what the operator has told you; if it is the same: --fingerprint {shown}")
    click.echo(finding, err=True)
    if not click.confirm("Is this what the operator has told you?", err=True):
        raise NotAuthenticated("The certificate is not trusted; no password was sent.", remedy="Ask the operator for its fingerprint.")
    return shown


def _info(address: Address) -> CoordinatorInfo:
    return Coordinator(address.url, fingerprint=address.fingerprint, ca_file=address.ca_file).info()


def _password(file: TextIO | None) -> str:
    if file is not None:
        return file.read().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise BadInput("There is nobody to ask for the password.", remedy="Give --password-file FILE, or '-' for standard input.")
    password: str = click.prompt("Password", hide_input=True, err=True)
    return password
