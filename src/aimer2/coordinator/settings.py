"""The coordinator's folder and its one file of settings, `coordinator.toml`."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, final

from pydantic import Field, ValidationError, model_validator

from aimer2.coordinator.permissions import check_role
from aimer2.core.errors import BadInput, NotFound
from aimer2.core.study import faults_of
from aimer2.core.task import Document

SETTINGS_FILE = "coordinator.toml"


class OpenIdSettings(Document):
    """`[openid]`: the provider by which people log in."""

    issuer: str = Field(pattern=r"^https://[^\s?#]+$", description="its address, as its tokens name it")
    client_id: str = Field(min_length=1, description="what the provider calls this coordinator")
    client_secret: str = Field(
        default="", description="file with the secret that the provider gave, readable by its owner only; empty: a public client"
    )
    name: str = Field(default="OpenID", min_length=1, max_length=100, description="shown where people log in")
    scopes: tuple[str, ...] = Field(default=("openid", "profile", "email"), description="what is asked for; `openid` is needed")
    name_claim: str = Field(default="preferred_username", description="the claim that becomes a new account's name")
    roles_claim: str = Field(default="groups", description="the claim that `roles` looks into")
    roles: dict[str, str] = Field(
        default_factory=dict, description="group → role, or role:site of a hospital's people; the first that fits counts, at each log-in anew"
    )
    create_accounts: bool = Field(default=False, description="the first log-in of a person with a role makes an account")
    ca_file: str = Field(default="", description="authorities that vouch for the provider's certificate, PEM; empty: the machine's")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "openid" not in self.scopes:
            raise ValueError("the scopes have `openid` among them")
        if self.create_accounts and not self.roles:
            raise ValueError("accounts that are made at the first log-in have their roles from `roles`")
        for role in self.roles.values():
            name, colon, site = role.partition(":")
            try:
                check_role(name, site if colon else None)
            except BadInput as error:
                raise ValueError(f"{role}: {error.sentence}") from None
        return self


class Settings(Document):
    """`coordinator.toml`: paths are relative to the folder that it lies in."""

    name: str = Field(min_length=1, max_length=200, description="shown to sites and researchers")
    host: str = Field(default="127.0.0.1", description="the address to listen on; 0.0.0.0: on every one")
    port: int = Field(default=8443, ge=1, le=65535, description="the one port, HTTPS")
    url: str = Field(pattern=r"^https://[^\s/]+$", description="how sites and researchers reach it; also the audience of their assertions")
    database: str = Field(default="sqlite:///coordinator.sqlite", description="SQLAlchemy address: SQLite, or postgresql+psycopg://…")
    blobs: str = Field(default="blobs", description="folder of model weights and updates")
    certificate: str = Field(default="tls/certificate.pem", description="TLS certificate, PEM, with its chain")
    private_key: str = Field(default="tls/key.pem", description="the certificate's private key, PEM")
    pinned: bool = Field(default=True, description="invitations carry the certificate's fingerprint; false: a public authority vouches for it")
    max_blob_bytes: int = Field(default=8 << 30, ge=1, description="the largest upload")
    max_request_bytes: int = Field(default=16 << 20, ge=1 << 16, description="the largest JSON body")
    site_token_seconds: int = Field(default=3600, ge=60, description="life of a site's token; a revoked site is refused at once all the same")
    user_token_seconds: int = Field(default=8 * 3600, ge=60, description="life of a command line's log-in")
    session_seconds: int = Field(default=12 * 3600, ge=60, description="a browser's session ends after so long in any case")
    session_idle_seconds: int = Field(default=1800, ge=60, description="a browser's session ends after so long without a request")
    invitation_seconds: int = Field(default=7 * 86400, ge=60, description="an invitation is good for so long")
    lease_seconds: float = Field(default=15, gt=1, description="a process that is silent for so long loses its studies to another one")
    openid: OpenIdSettings | None = Field(default=None, description="the OpenID provider by which people log in, a table of its own: [openid]")


@final
@dataclass(frozen=True, slots=True)
class Folder:
    """Where a coordinator's files lie."""

    path: Path

    @property
    def settings_file(self) -> Path:
        return self.path / SETTINGS_FILE

    @property
    def signing_key(self) -> Path:
        return self.path / "keys" / "signing.pem"

    @property
    def token_secret(self) -> Path:
        return self.path / "keys" / "tokens.secret"

    @property
    def audit_log(self) -> Path:
        return self.path / "audit.jsonl"

    @property
    def lock(self) -> Path:
        return self.path / ".running"

    def read_settings(self) -> Settings:
        """Raises NotFound where nothing was initialised, BadInput with every fault."""
        try:
            fields = tomllib.loads(self.settings_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise NotFound(f"There is no coordinator in {self.path}.", remedy="Make one with `aimer2 coordinator init`.") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadInput(f"{self.settings_file} is not TOML: {error}") from None
        try:
            return Settings(**fields)
        except ValidationError as error:
            faults = "\n".join(f"  {fault.place}: {fault.problem}" for fault in faults_of(error))
            raise BadInput(f"{self.settings_file} has faults:\n{faults}") from None

    def write_settings(self, settings: Settings) -> None:
        """Every setting with its meaning above it."""
        lines = ["# The settings of this coordinator. Restart it after a change.", ""]
        for name, field in Settings.model_fields.items():
            if name != "openid":
                lines += [f"# {field.description}", f"{name} = {_toml(getattr(settings, name))}"]
        if settings.openid is not None:
            lines += ["", f"# {Settings.model_fields['openid'].description}", "[openid]"]
            for name, field in OpenIdSettings.model_fields.items():
                lines += [f"# {field.description}", f"{name} = {_toml(getattr(settings.openid, name))}"]
        self.settings_file.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def database_url(self, settings: Settings) -> str:
        """A relative SQLite file lies in the folder."""
        kind, separator, rest = settings.database.partition(":///")
        if kind == "sqlite" and separator and not rest.startswith("/"):
            return f"sqlite:///{self.path.resolve() / rest}"
        return settings.database

    def resolve(self, name: str) -> Path:
        return (self.path / name).resolve()


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(inner)}" for key, inner in value.items()) + "}"
    # JSON's strings, numbers, booleans and lists are TOML's as well.
    return json.dumps(value, ensure_ascii=False)
