"""What is right and what is wrong with a site, and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, final

from aimer2 import __version__
from aimer2.audit.log import AuditLog
from aimer2.audit.verify import verify
from aimer2.client.https import proxy_of
from aimer2.connectors.table import load_table
from aimer2.core.clock import Clock, rfc3339
from aimer2.core.errors import AimerError
from aimer2.identity.keys import SigningKey
from aimer2.site import snapshots
from aimer2.site.address_book import AddressBook
from aimer2.site.agent import protections
from aimer2.site.approval import Policy
from aimer2.site.balance import ceiling
from aimer2.site.connection import Connection
from aimer2.site.decisions import open_decisions
from aimer2.site.enrolment import known_keys
from aimer2.site.folder import SiteFolder
from aimer2.site.ledger import Ledgers
from aimer2.site.restored import require_whole
from aimer2.site.sandbox import capabilities
from aimer2.site.settings import Settings, read_settings, read_toml
from aimer2.site.store import Store

_SKEW_SECONDS = 30
_FREE_GIB = 10


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """One line: ``good``, ``note`` (works, but look at it) or ``bad`` (does not work), and what to do."""

    subject: str
    state: Literal["good", "note", "bad"]
    finding: str
    remedy: str = ""


def examine(folder: SiteFolder, clock: Clock) -> Iterator[Finding]:
    """Every check in turn; the later ones also where an earlier one failed."""
    yield Finding("Version", "good", f"AIMER2 {__version__}, Python {platform.python_version()}, {platform.system()} {platform.release()}")
    yield from _folder(folder)
    try:
        settings = read_settings(folder.settings)
        policy = read_toml(folder.policy, Policy) if folder.policy.is_file() else Policy()
    except AimerError as error:
        yield _bad("Settings", error)
        return
    yield Finding("Policy", "good", f"{len(policy.rule)} rules; what none of them decides waits for a named person")
    yield from _coordinator(folder, settings, clock)
    yield from _machine(folder, settings, policy)
    yield from _datasets(folder, settings, clock)
    yield from _roster(folder, settings, clock)
    yield from _audit(folder)
    yield from _state(folder, clock)
    yield from _ledgers(folder, clock)


def _folder(folder: SiteFolder) -> Iterator[Finding]:
    mode = folder.path.stat().st_mode & 0o777
    if mode & 0o077:
        yield Finding("Folder", "bad", f"{folder.path} is open to other users ({mode:04o})", f"chmod 700 {folder.path}")
    else:
        yield Finding("Folder", "good", f"{folder.path}, open to its owner alone")
    if folder.path.stat().st_uid != os.getuid():
        yield Finding("Folder", "bad", "it belongs to another user", "run this as the user that the agent runs as")
    try:
        key = SigningKey.load(folder.key)
        yield Finding("Key", "good", f"fingerprint {key.public.fingerprint}")
    except AimerError as error:
        yield _bad("Key", error)


def _coordinator(folder: SiteFolder, settings: Settings, clock: Clock) -> Iterator[Finding]:
    proxy = proxy_of(settings.coordinator.url)
    yield Finding("Proxy", "good", "none" if proxy is None else f"{proxy.rpartition('@')[2]} (HTTPS_PROXY)")
    trust = f"own authority {settings.coordinator.ca_file}" if settings.coordinator.ca_file else "pinned certificate"
    if not settings.coordinator.ca_file and not settings.coordinator.fingerprint:
        trust = "public authority"
    try:
        connection = Connection(settings.coordinator, settings.site, SigningKey.load(folder.key), clock)
        before = clock.now()
        info = connection.info()
        skew = info.time - (before + clock.now()) / 2
        yield Finding("Coordinator", "good", f"{info.name} at {settings.coordinator.url}, version {info.version}; TLS: {trust}")
        if info.key != settings.coordinator.key:
            yield Finding("Coordinator", "bad", "its key is not the one of the enrolment", "ask the operator by telephone")
        if abs(skew) > _SKEW_SECONDS:
            times = f"here {rfc3339(clock.now())}, there {rfc3339(info.time)}"
            yield Finding("Clock", "bad", f"{abs(skew):.0f} s apart: {times}", "set this machine's clock (NTP)")
        else:
            yield Finding("Clock", "good", f"{abs(skew):.1f} s from the coordinator's")
        if connection.accepts_us():
            yield Finding("Enrolment", "good", f"known there as '{settings.site}'")
        else:
            yield Finding("Enrolment", "bad", "the coordinator does not accept this site's key", "ask the operator for a new invitation")
    except AimerError as error:
        yield _bad("Coordinator", error)


def _machine(folder: SiteFolder, settings: Settings, policy: Policy) -> Iterator[Finding]:
    free = shutil.disk_usage(folder.path).free / 2**30
    yield Finding("Disk", "good" if free > _FREE_GIB else "note", f"{free:.0f} GiB free", "" if free > _FREE_GIB else "make room")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
    if memory < settings.worker.memory_mib:
        yield Finding("Memory", "note", f"{memory:.0f} MiB; a worker may use {settings.worker.memory_mib}", "lower worker.memory_mib in site.toml")
    else:
        yield Finding("Memory", "good", f"{memory:.0f} MiB; a worker may use {settings.worker.memory_mib}")
    found = capabilities()
    enforced = protections(found)
    yield from (Finding("Sandbox", "good" if ": no" not in line.lower() else "note", line) for line in found.describe())
    missing = [name for name in settings.worker.require if name not in enforced]
    if missing:
        yield Finding("Sandbox", "bad", f"required, but not available here: {', '.join(missing)}", "see the lines above; until then nothing runs")
    for rule in policy.rule:
        lacking = [name for name in rule.require if name not in enforced]
        if rule.decision == "approve" and lacking:
            yield Finding("Policy", "note", f"rule '{rule.name}' never applies: this machine has no {', '.join(lacking)}", "see the sandbox's lines")


def _datasets(folder: SiteFolder, settings: Settings, clock: Clock) -> Iterator[Finding]:
    names = snapshots.names(folder)
    if not names:
        yield Finding("Data sets", "note", "none", "add one with `aimer2 site dataset add`")
    for name in names:
        try:
            record = snapshots.current(folder, name, settings.retention, clock.now())
            load_table(record.path, verify=True, sha256=record.sha256)
            told = f"{record.patients} patients, {record.rows} rows, of {rfc3339(record.created)}; bytes as recorded"
            yield Finding(f"Data set {name}", "good", told)
        except AimerError as error:
            yield _bad(f"Data set {name}", error)


def _roster(folder: SiteFolder, settings: Settings, clock: Clock) -> Iterator[Finding]:
    try:
        store, key = Store(folder.state), SigningKey.load(folder.key)
        book = AddressBook(settings.site, key, folder.state, AuditLog(folder.audit, key, clock), clock)
        packages = {known.digest: known.package for known in store.studies() if known.state == "running"}
        secure = {digest: package.roster for digest, package in packages.items() if package and package.study.privacy.secure_aggregation}
        missing = {digest: book.unverified(roster) for digest, roster in secure.items()}
        store.close()
    except AimerError as error:
        yield _bad("Roster", error)
        return
    for digest, sites in missing.items():
        if sites:
            told = f"{len(sites)} of {len(secure[digest])} members of the running study {digest[:12]} are not verified here: {', '.join(sites)}"
            yield Finding("Roster", "bad", told, f"`aimer2 site roster show {digest[:12]}`; until then this site takes no part in it")
    if not any(missing.values()):
        yield Finding("Roster", "good", f"{len(book.entries())} sites verified; members of running studies with secure aggregation that are not: 0")


def _audit(folder: SiteFolder) -> Iterator[Finding]:
    try:
        found = verify(folder.audit, known_keys(folder))
    except AimerError as error:
        yield _bad("Audit log", error)
        return
    if found.intact:
        yield Finding("Audit log", "good", f"{found.entries} entries, unbroken")
    else:
        yield Finding("Audit log", "bad", f"{found.found} problems; first: {found.problems[0].sentence}", "`aimer2 site audit verify` lists them")


def _state(folder: SiteFolder, clock: Clock) -> Iterator[Finding]:
    try:
        decisions = open_decisions(folder, clock)
        require_whole(decisions)
        decisions.store.close()
        yield Finding("State", "good", "as new as the audit log")
    except AimerError as error:
        yield _bad("State", error)


def _ledgers(folder: SiteFolder, clock: Clock) -> Iterator[Finding]:
    try:
        key = SigningKey.load(folder.key)
        ledgers = Ledgers(folder, key, AuditLog(folder.audit, key, clock), clock)
        for name in ledgers.names():
            subject = f"Privacy ledger {name}"
            if problems := ledgers.problems(name):
                yield Finding(subject, "bad", problems[0].sentence, "`aimer2 site budget verify` lists what is wrong; until then nothing is charged")
            elif (balance := ledgers.own(name).balance()).budget is not None:
                yield Finding(subject, "good", f"ε {ceiling(balance.epsilon)} spent; the budget is {balance.budget}")
    except AimerError as error:
        yield _bad("Privacy ledgers", error)


def _bad(subject: str, error: AimerError) -> Finding:
    return Finding(subject, "bad", error.sentence, error.advice)
