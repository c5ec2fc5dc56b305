"""The site's folder: where everything that a hospital keeps for AIMER2 lies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

from aimer2.core.errors import Conflict, NotFound
from aimer2.core.said import say


@final
@dataclass(frozen=True, slots=True)
class SiteFolder:
    """Readable by its owner alone (mode 0700). Back it up whole but for `vault.sqlite`:
    `state.sqlite`, `questions.sqlite`, `audit.jsonl` and `ledgers` belong together."""

    path: Path

    @property
    def settings(self) -> Path:
        return self.path / "site.toml"

    @property
    def policy(self) -> Path:
        return self.path / "policy.toml"

    @property
    def key(self) -> Path:
        """The site's private key; who has it is this site."""
        return self.path / "key.pem"

    @property
    def public_keys(self) -> Path:
        """Every public key that the audit log was signed with, one a line, the oldest first."""
        return self.path / "public-keys.txt"

    @property
    def split_key(self) -> Path:
        """The secret under which patient identifiers become pseudonyms. Lost, the held-out patients change."""
        return self.path / "split.key"

    @property
    def state(self) -> Path:
        return self.path / "state.sqlite"

    @property
    def vault(self) -> Path:
        """The secrets of sums in secret. Leave it out of backups: an old copy put back would be a second site under the same key."""
        return self.path / "vault.sqlite"

    @property
    def questions(self) -> Path:
        """Which statistical questions were answered, and of whom (pseudonyms)."""
        return self.path / "questions.sqlite"

    @property
    def audit(self) -> Path:
        return self.path / "audit.jsonl"

    @property
    def console(self) -> Path:
        """Who may log in at the console."""
        return self.path / "console.sqlite"

    @property
    def socket(self) -> Path:
        return self.path / "agent.sock"

    @property
    def lock(self) -> Path:
        return self.path / "agent.lock"

    def dataset(self, name: str) -> Path:
        return self.path / "datasets" / name

    def published(self, dataset: str) -> Path:
        """What a person has let the consortium know of a data set."""
        return self.dataset(dataset) / "published.json"

    def ledger(self, dataset: str) -> Path:
        """The privacy ledger of a data set."""
        return self.path / "ledgers" / f"{dataset}.jsonl"

    def ledgers(self) -> list[Path]:
        """Those that there are."""
        return sorted((self.path / "ledgers").glob("*.jsonl"))

    def study(self, digest: str) -> Path:
        """What a study's worker reads (``files``) and may write (``scratch``), and its log."""
        return self.path / "studies" / digest

    def blobs(self, digest: str) -> Path:
        """What a study received and what it sends."""
        return self.study(digest) / "blobs"

    def log(self, digest: str) -> Path:
        return self.study(digest) / "worker.log"

    @property
    def models(self) -> Path:
        """Models of the hospital's own that studies have left."""
        return self.path / "models"

    def model(self, digest: str) -> Path:
        return self.models / digest

    def report(self, digest: str) -> Path:
        return self.path / "reports" / f"{digest}.json"


def locate(folder: Path | None) -> SiteFolder:
    """The named folder, else the one that AIMER2_SITE names, else `./site`."""
    return SiteFolder((folder or Path(os.environ.get("AIMER2_SITE", "site"))).absolute())


def existing(folder: Path | None) -> SiteFolder:
    """Raises NotFound where no site has been made."""
    found = locate(folder)
    if not found.settings.is_file():
        raise NotFound(
            say("There is no site in {path}.", path=found.path),
            remedy="Make one with `aimer2 site init INVITATION`, or name its folder with --folder.",
        )
    return found


@contextmanager
def agent_lock(folder: SiteFolder) -> Iterator[None]:
    """Held by the one agent of a folder. Raises Conflict where it runs already."""
    file = os.open(folder.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict("The agent of this site is running.", remedy="Stop it first, for example `systemctl stop aimer2-site`.") from None
        yield
    finally:
        os.close(file)
