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
)

invitations = Table(
    "invitations",
    metadata,
    Column("code_hash", _Digest, primary_key=True),
    Column("site", _Site, nullable=False),
    Column("made", Double, nullable=False),
    Column("expires", Double, nullable=False),
    Column("used_by_key", String(43)),
)

users = Table(
    "users",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("role", String(20), nullable=False),
    Column("password", Text, nullable=False),
    Column("added", Double, nullable=False),
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

# A counter per topic, so that one process learns cheaply that another one has changed something.
changes = Table(
    "changes",
    metadata,
    Column("topic", String(20), primary_key=True),
    Column("number", Integer, nullable=False),
)
