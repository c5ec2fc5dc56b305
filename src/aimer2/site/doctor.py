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
from aimer2.core.said import say
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
    yield Finding(
        "Version",
        "good",
        say(
            "AIMER2 {version}, Python {python_version}, {system} {release}",
            version=__version__,
            python_version=platform.python_version(),
            system=platform.system(),
            release=platform.release(),
        ),
    )
    yield from _folder(folder)
    try:
        settings = read_settings(folder.settings)
        policy = read_toml(folder.policy, Policy) if folder.policy.is_file() else Policy()
    except AimerError as error:
        yield _bad("Settings", error)
        return
    yield Finding("Policy", "good", say("{count} rules; what none of them decides waits for a named person", count=len(policy.rule)))
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
        yield Finding(
            "Folder",
            "bad",
            say("{path} is open to other users ({mode})", path=folder.path, mode=f"{mode:04o}"),
            say("chmod 700 {path}", path=folder.path),
        )
    else:
        yield Finding("Folder", "good", say("{path}, open to its owner alone", path=folder.path))
    if folder.path.stat().st_uid != os.getuid():
        yield Finding("Folder", "bad", "it belongs to another user", "run this as the user that the agent runs as")
    try:
        key = SigningKey.load(folder.key)
        yield Finding("Key", "good", say("fingerprint {fingerprint}", fingerprint=key.public.fingerprint))
    except AimerError as error:
        yield _bad("Key", error)


def _coordinator(folder: SiteFolder, settings: Settings, clock: Clock) -> Iterator[Finding]:
    proxy = proxy_of(settings.coordinator.url)
    yield Finding("Proxy", "good", "none" if proxy is None else say("{proxy} (HTTPS_PROXY)", proxy=proxy.rpartition("@")[2]))
    trust = say("own authority {file}", file=settings.coordinator.ca_file) if settings.coordinator.ca_file else say("pinned certificate")
    if not settings.coordinator.ca_file and not settings.coordinator.fingerprint:
        trust = say("public authority")
    try:
        connection = Connection(settings.coordinator, settings.site, SigningKey.load(folder.key), clock)
        before = clock.now()
        info = connection.info()
        skew = info.time - (before + clock.now()) / 2
        yield Finding(
            "Coordinator",
            "good",
            say("{name} at {url}, version {version}; TLS: {trust}", name=info.name, url=settings.coordinator.url, version=info.version, trust=trust),
        )
        if info.key != settings.coordinator.key:
            yield Finding("Coordinator", "bad", "its key is not the one of the enrolment", "ask the operator by telephone")
        if abs(skew) > _SKEW_SECONDS:
            here, there = rfc3339(clock.now()), rfc3339(info.time)
            told = say("{skew} s apart: here {here}, there {there}", skew=f"{abs(skew):.0f}", here=here, there=there)
            yield Finding("Clock", "bad", told, "set this machine's clock (NTP)")
        else:
            yield Finding("Clock", "good", say("{skew} s from the coordinator's", skew=f"{abs(skew):.1f}"))
        if connection.accepts_us():
            yield Finding("Enrolment", "good", say("known there as '{site}'", site=settings.site))
        else:
            yield Finding("Enrolment", "bad", "the coordinator does not accept this site's key", "ask the operator for a new invitation")
    except AimerError as error:
        yield _bad("Coordinator", error)


def _machine(folder: SiteFolder, settings: Settings, policy: Policy) -> Iterator[Finding]:
    free = shutil.disk_usage(folder.path).free / 2**30
    yield Finding("Disk", "good" if free > _FREE_GIB else "note", say("{free} GiB free", free=f"{free:.0f}"), "" if free > _FREE_GIB else "make room")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
    if memory < settings.worker.memory_mib:
        yield Finding(
            "Memory",
            "note",
            say("{memory} MiB; a worker may use {memory_mib}", memory=f"{memory:.0f}", memory_mib=settings.worker.memory_mib),
            "lower worker.memory_mib in site.toml",
        )
    else:
        yield Finding(
            "Memory", "good", say("{memory} MiB; a worker may use {memory_mib}", memory=f"{memory:.0f}", memory_mib=settings.worker.memory_mib)
        )
    found = capabilities()
    enforced = protections(found)
    yield from (Finding("Sandbox", "good" if ": no" not in line.lower() else "note", line) for line in found.describe())
    missing = [name for name in settings.worker.require if name not in enforced]
    if missing:
        yield Finding(
            "Sandbox",
            "bad",
            say("required, but not available here: {missing}", missing=", ".join(missing)),
            "see the lines above; until then nothing runs",
        )
    for rule in policy.rule:
        lacking = [name for name in rule.require if name not in enforced]
        if rule.decision == "approve" and lacking:
            yield Finding(
                "Policy",
                "note",
                say("rule '{name}' never applies: this machine has no {lacking}", name=rule.name, lacking=", ".join(lacking)),
                "see the sandbox's lines",
            )


def _datasets(folder: SiteFolder, settings: Settings, clock: Clock) -> Iterator[Finding]:
    names = snapshots.names(folder)
    if not names:
        yield Finding("Data sets", "note", "none", "add one with `aimer2 site dataset add`")
    for name in names:
        try:
            record = snapshots.current(folder, name, settings.retention, clock.now())
            load_table(record.path, verify=True, sha256=record.sha256)
            told = say(
                "{patients} patients, {rows} rows, of {created}; bytes as recorded",
                patients=record.patients,
                rows=record.rows,
                created=rfc3339(record.created),
            )
            yield Finding(say("Data set {name}", name=name), "good", told)
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
            told = say(
                "{count} of {members} members of the running study {digest} are not verified here: {sites}",
                count=len(sites),
                members=len(secure[digest]),
                digest=digest[:12],
                sites=", ".join(sites),
            )
            yield Finding(
                "Roster", "bad", told, say("`aimer2 site roster show {digest}`; until then this site takes no part in it", digest=digest[:12])
            )
    if not any(missing.values()):
        yield Finding(
            "Roster",
            "good",
            say("{count} sites verified; members of running studies with secure aggregation that are not: 0", count=len(book.entries())),
        )


def _audit(folder: SiteFolder) -> Iterator[Finding]:
    try:
        found = verify(folder.audit, known_keys(folder))
    except AimerError as error:
        yield _bad("Audit log", error)
        return
    if found.intact:
        yield Finding("Audit log", "good", say("{entries} entries, unbroken", entries=found.entries))
    else:
        yield Finding(
            "Audit log",
            "bad",
            say("{found} problems; first: {sentence}", found=found.found, sentence=found.problems[0].sentence),
            "`aimer2 site audit verify` lists them",
        )


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
            subject = say("Privacy ledger {name}", name=name)
            if problems := ledgers.problems(name):
                yield Finding(subject, "bad", problems[0].sentence, "`aimer2 site budget verify` lists what is wrong; until then nothing is charged")
            elif (balance := ledgers.own(name).balance()).budget is not None:
                yield Finding(
                    subject, "good", say("ε {epsilon} spent; the budget is {budget}", epsilon=ceiling(balance.epsilon), budget=balance.budget)
                )
    except AimerError as error:
        yield _bad("Privacy ledgers", error)


def _bad(subject: str, error: AimerError) -> Finding:
    return Finding(subject, "bad", error.sentence, error.advice)
