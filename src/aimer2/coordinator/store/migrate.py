"""Brings a database to the tables of this version."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from aimer2.coordinator import migrations
from aimer2.coordinator.store.database import Database
from aimer2.core.errors import VersionMismatch

_FOLDER = str(Path(migrations.__file__).parent)


def migrate(database: Database) -> None:
    """Runs the revisions that the database does not have yet, all or none.

    Raises VersionMismatch where the database comes from a newer AIMER2.
    """
    database.write_now(_upgrade)


def config_for(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", _FOLDER.replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _upgrade(connection: Connection) -> None:
    config = config_for(connection)
    scripts = ScriptDirectory.from_config(config)
    current = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in scripts.walk_revisions()}
    if current is not None and current not in known:
        raise VersionMismatch("The database comes from a newer version of AIMER2.")
    if current != scripts.get_current_head():
        command.upgrade(config, "head")
