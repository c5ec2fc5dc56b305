"""What a person does about people at a coordinator: tokens for scripts, accounts, and who works on a study."""

from __future__ import annotations

from typing import final
from urllib.parse import quote

from aimer2.client.transport import Transport, parse
from aimer2.core.errors import NotFound
from aimer2.messages.people import (
    MadePerson,
    MadeToken,
    NewPerson,
    PartRequest,
    Person,
    RoleChange,
    SessionStatus,
    StudyPart,
    TokenRequest,
)


@final
class People:
    """`Coordinator.people`. Who may do what stands in docs/people.md; what is not allowed raises NotAllowed."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def tokens(self) -> list[SessionStatus]:
        """One's own tokens for scripts."""
        return parse(list[SessionStatus], self._transport.ask("GET", "/v1/service-tokens"))

    def create_token(self, name: str, *, role: str | None = None, days: int = 90) -> MadeToken:
        """A token for a script, shown this once; ``role`` limits it. Raises Conflict for a name that is taken."""
        return parse(MadeToken, self._transport.ask("POST", "/v1/service-tokens", TokenRequest(name=name, role=role, days=days)))

    def revoke_token(self, which: str) -> SessionStatus:
        """By its name or id, at once. Raises NotFound."""
        found = next((token for token in self.tokens() if which in (token.name, token.id)), None)
        if found is None:
            raise NotFound(f"You have no token {which!r}.", remedy="`aimer2 token list` shows yours.")
        self._transport.ask("DELETE", f"/v1/service-tokens/{found.id}")
        return found

    def all(self) -> list[Person]:
        """Every account."""
        return parse(list[Person], self._transport.ask("GET", "/v1/people"))

    def add(self, name: str, role: str, *, site: str | None = None, password: str | None = None) -> MadePerson:
        """A new account; without ``password`` one is made, and shown this once. Raises Conflict, BadInput."""
        return parse(MadePerson, self._transport.ask("POST", "/v1/people", NewPerson(name=name, role=role, site=site, password=password)))

    def change(self, name: str, role: str, *, site: str | None = None) -> Person:
        """Gives an account another role."""
        return parse(Person, self._transport.ask("PUT", f"/v1/people/{_named(name)}", RoleChange(role=role, site=site)))

    def remove(self, name: str) -> None:
        """Closes an account, with its log-ins and tokens."""
        self._transport.ask("DELETE", f"/v1/people/{_named(name)}")

    def sessions(self, name: str) -> list[SessionStatus]:
        """A person's log-ins and tokens."""
        return parse(list[SessionStatus], self._transport.ask("GET", f"/v1/people/{_named(name)}/sessions"))

    def log_out(self, name: str) -> None:
        """Ends all log-ins of a person and all tokens of his scripts."""
        self._transport.ask("DELETE", f"/v1/people/{_named(name)}/sessions")

    def of_study(self, digest: str) -> list[StudyPart]:
        """Who works on a study, and as what."""
        return parse(list[StudyPart], self._transport.ask("GET", f"/v1/studies/{digest}/people"))

    def share(self, digest: str, name: str, part: str) -> None:
        """Gives a person a part in a study: principal-investigator, researcher or auditor."""
        self._transport.ask("PUT", f"/v1/studies/{digest}/people/{_named(name)}", PartRequest(part=part))

    def unshare(self, digest: str, name: str) -> None:
        """Takes the part back. Raises NotFound."""
        self._transport.ask("DELETE", f"/v1/studies/{digest}/people/{_named(name)}")


def _named(name: str) -> str:
    return quote(name, safe="")
