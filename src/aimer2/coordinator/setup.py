"""Making a coordinator: its folder with settings, keys, certificate and database."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final
from urllib.parse import urlsplit

from aimer2.coordinator.enrolment import Inviter, new_token_secret
from aimer2.coordinator.settings import Folder, Settings
from aimer2.coordinator.store.database import Database
from aimer2.coordinator.store.migrate import migrate
from aimer2.core.clock import Clock
from aimer2.core.errors import Conflict
from aimer2.core.said import say
from aimer2.identity.certificates import fingerprint, make_certificate
from aimer2.identity.keys import SigningKey
from aimer2.identity.secret_files import write_secret


@final
@dataclass(frozen=True, slots=True)
class OwnCertificate:
    """A certificate that a hospital or a public authority has issued; its files stay where they are."""

    certificate: Path
    private_key: Path


def initialise(folder: Folder, settings: Settings, clock: Clock, own: OwnCertificate | None = None) -> None:
    """Makes everything that `run` needs. Raises Conflict where there is a coordinator already."""
    if folder.settings_file.exists():
        raise Conflict(say("There is a coordinator in {path} already.", path=folder.path))
    for part in (folder.path, folder.signing_key.parent, folder.path / "tls"):
        part.mkdir(mode=0o700, parents=True, exist_ok=True)
    if own is None:
        host = urlsplit(settings.url).hostname or settings.host
        names = [name for name in dict.fromkeys([host, settings.host, "localhost", "127.0.0.1"]) if name not in ("0.0.0.0", "::")]
        key, certificate = make_certificate(names, now=clock.now())
        write_secret(folder.resolve(settings.private_key), key)
        folder.resolve(settings.certificate).write_bytes(certificate)
    else:
        fingerprint(own.certificate.read_bytes())
        settings = settings.model_copy(
            update={"certificate": str(own.certificate.resolve()), "private_key": str(own.private_key.resolve()), "pinned": False}
        )
    SigningKey.generate().save(folder.signing_key)
    write_secret(folder.token_secret, new_token_secret())
    database = Database(folder.database_url(settings))
    migrate(database)
    database.close()
    # Last: a folder with settings is a whole coordinator.
    folder.write_settings(settings)


def inviter(folder: Folder, settings: Settings, clock: Clock) -> Inviter:
    certificate = folder.resolve(settings.certificate).read_bytes() if settings.pinned else None
    key = SigningKey.load(folder.signing_key).public
    return Inviter(settings, key, None if certificate is None else fingerprint(certificate), clock)
