"""The tables. A change here needs a migration beside it; a test compares the two."""

from __future__ import annotations

from sqlalchemy import Column, Double, ForeignKey, Index, Integer, MetaData, String, Table, Text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_Digest = String(64)
_Site = String(63)

sites = Table(
    "sites",
    metadata,
    Column("site", _Site, primary_key=True),
    Column("key", String(43), nullable=False),
    Column("enrolled", Double, nullable=False),
    Column("revoked", Double),
    Column("last_contact", Double),
    Column("status", Text, nullable=False, default="{}"),
    Column("revision", Integer, nullable=False, default=1),
    Column("left_by", String(200)),
    Column("left_reason", Text),
    # What was decided before, under a key that was revoked since, does not count any more.
    Column("first_decision", Integer, nullable=False, default=0),
)

invitations = Table(
    "invitations",
    metadata,
    Column("code_hash", _Digest, primary_key=True),
    Column("site", _Site, nullable=False),
    Column("made", Double, nullable=False),
    Column("expires", Double, nullable=False),
    Column("used_by_key", String(43)),
    Column("made_by", String(200), nullable=False, default=""),
    Column("revoked", Double),
    Column("revoked_by", String(200)),
)

users = Table(
    "users",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("role", String(30), nullable=False),
    Column("password", Text, nullable=False),
    Column("added", Double, nullable=False),
    Column("site", _Site),
    Column("issuer", String(500)),
    Column("subject", String(255)),
    Index(None, "issuer", "subject", unique=True),
)

# Log-ins and tokens: only the hash of each secret, which its owner alone has.
sessions = Table(
    "sessions",
    metadata,
    Column("secret_hash", _Digest, primary_key=True),
    Column("id", String(16), nullable=False, index=True, unique=True),
    Column("user", String(200), nullable=False, index=True),
    Column("kind", String(10), nullable=False),
    Column("name", String(100), nullable=False),
    Column("role", String(30), nullable=False),
    Column("made", Double, nullable=False),
    Column("used", Double, nullable=False),
    Column("expires", Double, nullable=False),
)

# How often a log-in failed, under hashes of accounts and addresses, so that a restart does not let anybody guess anew.
login_attempts = Table(
    "login_attempts",
    metadata,
    Column("key", _Digest, primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("last", Double, nullable=False),
    Column("succeeded", Double),
)

# Log-ins that are at the OpenID provider at the moment.
openid_logins = Table(
    "openid_logins",
    metadata,
    Column("state_hash", _Digest, primary_key=True),
    Column("nonce", String(64), nullable=False),
    Column("verifier", String(128), nullable=False),
    Column("target", Text, nullable=False),
    Column("expires", Double, nullable=False, index=True),
)

# Identifiers of assertions that were used, so that none is accepted twice, after a restart neither.
assertions = Table(
    "assertions",
    metadata,
    Column("identifier", String(200), primary_key=True),
    Column("until", Double, nullable=False, index=True),
)

# Who has shown that he has these bytes: only that makes a reference to a blob his.
uploads = Table(
    "uploads",
    metadata,
    Column("sha256", _Digest, primary_key=True),
    Column("owner", String(220), primary_key=True),
)

studies = Table(
    "studies",
    metadata,
    Column("digest", _Digest, primary_key=True),
    Column("package", Text, nullable=False),
    Column("state", String(10), nullable=False, index=True),
    Column("reason", Text, nullable=False, default=""),
    Column("submitted_by", String(200), nullable=False),
    Column("submitted", Double, nullable=False),
    Column("round_number", Integer, nullable=False, default=0),
    Column("holder", String(300)),
    Column("lease_until", Double),
    Column("checkpoint", Text),
    Column("result", Text),
    Column("supersedes", _Digest, unique=True, index=True),
    Column("archived", Double),
)

# Who works on a study, besides the one who has submitted it.
study_parts = Table(
    "study_parts",
    metadata,
    Column("study", _Digest, ForeignKey("studies.digest"), primary_key=True),
    Column("user", String(200), primary_key=True),
    Column("part", String(30), nullable=False),
    Column("given_by", String(200), nullable=False),
    Column("given", Double, nullable=False),
)

# What the members have agreed on: a document that lies elsewhere, by its SHA-256.
agreements = Table(
    "agreements",
    metadata,
    Column("digest", _Digest, primary_key=True),
    Column("title", String(300), nullable=False),
    Column("dated", String(10), nullable=False),
    Column("added_by", String(200), nullable=False),
    Column("added", Double, nullable=False),
)

acceptances = Table(
    "acceptances",
    metadata,
    Column("agreement", _Digest, ForeignKey("agreements.digest"), primary_key=True),
    Column("site", _Site, ForeignKey("sites.site"), primary_key=True),
    Column("by", String(200), nullable=False),
    Column("recorded_by", String(200), nullable=False),
    Column("accepted", Double, nullable=False),
)

# As the sites have signed them, and never changed.
decisions = Table(
    "decisions",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("study", _Digest, ForeignKey("studies.digest"), nullable=False),
    Column("site", _Site, ForeignKey("sites.site"), nullable=False),
    Column("decision", String(10), nullable=False),
    Column("by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("until", Double),
    Column("time", Double, nullable=False),
    Column("key", String(43), nullable=False),
    Column("statement", Text, nullable=False),
    Index(None, "study", "site"),
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", String(128), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("study", _Digest, ForeignKey("studies.digest"), nullable=False),
    Column("site", _Site, ForeignKey("sites.site"), nullable=False),
    Column("state", String(10), nullable=False),
    Column("document", Text, nullable=False),
    Column("reply", Text),
    Column("put", Double, nullable=False),
    Column("answered", Double),
    Index(None, "state", "study"),
)

events = Table(
    "events",
    metadata,
    Column("study", _Digest, ForeignKey("studies.digest"), primary_key=True),
    Column("sequence", Integer, primary_key=True),
    Column("document", Text, nullable=False),
    Column("model", _Digest, index=True),
)

# Each as the coordinator has signed it, and never changed.
model_stages = Table(
    "model_stages",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("study", _Digest, ForeignKey("studies.digest"), nullable=False, index=True),
    Column("stage", String(10), nullable=False),
    Column("statement", Text, nullable=False),
)

# Their authors' alone: no site sees them.
drafts = Table(
    "drafts",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("owner", String(200), nullable=False, index=True),
    Column("document", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("made", Double, nullable=False),
    Column("changed", Double, nullable=False),
)

# Of each thing the last word of a site, as it has signed it: of a study (its digest) or a data set (its name).
told = Table(
    "told",
    metadata,
    Column("kind", String(20), primary_key=True),
    Column("site", _Site, ForeignKey("sites.site"), primary_key=True),
    Column("subject", String(64), primary_key=True),
    Column("time", Double, nullable=False),
    Column("statement", Text, nullable=False),
)

# The last row says whether everything is stopped; rows are never changed.
freezes = Table(
    "freezes",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("frozen", Integer, nullable=False),
    Column("by", String(220), nullable=False),
    Column("reason", Text, nullable=False),
    Column("time", Double, nullable=False),
)

# A counter per topic, so that one process learns cheaply that another one has changed something.
changes = Table(
    "changes",
    metadata,
    Column("topic", String(20), primary_key=True),
    Column("number", Integer, nullable=False),
)
