"""How a site comes into being: its keys, its folder, its place at a coordinator; and how it changes its key."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Final

from aimer2.audit.kinds import Kind
from aimer2.audit.log import AuditLog
from aimer2.core.clock import Clock
from aimer2.core.errors import BadInput, Conflict, Tampered
from aimer2.core.said import say
from aimer2.identity.documents import sign_document
from aimer2.identity.invitations import Invitation
from aimer2.identity.keys import PublicKey, SigningKey
from aimer2.identity.secret_files import write_secret
from aimer2.messages.wire import KeyRotation
from aimer2.site.connection import Connection
from aimer2.site.folder import SiteFolder, agent_lock
from aimer2.site.settings import CoordinatorAddress, Settings, first_settings, read_settings

FIRST_POLICY: Final = """\
# The rules by which this hospital takes part. Without a rule every study waits for a named person:
# `aimer2 site requests`, `aimer2 site show DIGEST`, `aimer2 site approve DIGEST --by "Name"`.
#
# [[rule]]
# name = "established methods on the heart registry"
# set_by = "Dr Ines Vogt, data-protection officer"
# decision = "approve"
# datasets = ["heart"]
# methods = ["fedavg", "fedprox"]
# minimum_patients = 50
# maximum_rounds = 200
# maximum_days = 180
"""


def make_site(folder: SiteFolder, invitation: Invitation, *, name: str | None, ca_file: Path | None, clock: Clock) -> Settings:
    """Makes keys, enrols, writes the settings. Broken off, it may be run again.

    Raises Conflict where there is a site already, BadInput where nobody has named it, Tampered where the coordinator is not the one of the
    invitation, and what the coordinator says.
    """
    site = name or invitation.site
    if site is None or (invitation.site is not None and site != invitation.site):
        raise BadInput(say("The invitation is for '{site}'.", site=invitation.site) if invitation.site else "Name the site with --site.")
    if folder.settings.exists():
        raise Conflict(say("{path} holds a site already.", path=folder.path), remedy="Name another folder with --folder.")
    folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.path.chmod(0o700)
    key = _key(folder)
    audit = AuditLog(folder.audit, key, clock)
    audit.append(Kind.SITE_CREATED, actor=site, details={"key": key.public.text})
    address = CoordinatorAddress(url=invitation.url, name="", key=invitation.coordinator_key, fingerprint=invitation.fingerprint, ca_file=ca_file)
    enrolled = Connection(address, site, key, clock).enrol(invitation.code)
    if enrolled.coordinator_key != invitation.coordinator_key:
        raise Tampered("The coordinator does not hold the key that the invitation names.", remedy="Ask the operator by telephone.")
    for part in ("datasets", "studies", "reports"):
        (folder.path / part).mkdir(mode=0o700, exist_ok=True)
    folder.policy.write_text(FIRST_POLICY, encoding="utf-8")
    audit.append(Kind.SITE_JOINED, actor=site, details={"coordinator": enrolled.name, "key": enrolled.coordinator_key})
    named = address.model_copy(update={"name": enrolled.name})
    # Written last: a site is there when this file is.
    folder.settings.write_text(first_settings(site, named), encoding="utf-8")
    return read_settings(folder.settings)


def _key(folder: SiteFolder) -> SigningKey:
    if folder.key.exists():
        return SigningKey.load(folder.key)
    key = SigningKey.generate()
    if not folder.split_key.exists():
        write_secret(folder.split_key, secrets.token_hex(32).encode())
    folder.public_keys.write_text(key.public.text + "\n", encoding="ascii")
    key.save(folder.key)
    return key


def known_keys(folder: SiteFolder) -> list[PublicKey]:
    """Every key that the audit log and the ledgers were signed with, the oldest first."""
    return [PublicKey.from_text(line) for line in folder.public_keys.read_text(encoding="ascii").split()]


def rotate_key(folder: SiteFolder, settings: Settings, clock: Clock, *, by: str) -> PublicKey:
    """A new key in place of the old one, which signs it over; the agent must be stopped.

    Broken off, it goes on from there when it is run again. Raises Conflict while the agent runs.
    """
    with agent_lock(folder):
        old = SigningKey.load(folder.key)
        path = folder.key.with_name("key.next.pem")
        if not path.exists():
            SigningKey.generate().save(path)
        new = SigningKey.load(path)
        if not _is_known(settings, new, clock):
            Connection(settings.coordinator, settings.site, old, clock).rotate(_rotation(settings.site, old, new, clock.now()))
        for file in (*folder.ledgers(), folder.audit):
            log = AuditLog(file, old, clock)
            if not any(entry.details.get("key") == new.public.text for entry in log.read(kinds={Kind.KEY_ROTATED})):
                log.rotate(new, actor=by)
        keys = folder.public_keys.with_suffix(".draft")
        keys.write_text(folder.public_keys.read_text(encoding="ascii") + new.public.text + "\n", encoding="ascii")
        os.replace(keys, folder.public_keys)
        os.replace(path, folder.key)
        return new.public


def _rotation(site: str, old: SigningKey, new: SigningKey, now: float) -> KeyRotation:
    payload = json.dumps({"site": site, "key": new.public.text, "time": now}).encode()
    return KeyRotation(statement=sign_document(payload, old, kind="key-rotation"), proof=sign_document(payload, new, kind="key-rotation"))


def _is_known(settings: Settings, key: SigningKey, clock: Clock) -> bool:
    return Connection(settings.coordinator, settings.site, key, clock).accepts_us()
