"""What a hospital sets: `site.toml`."""

from __future__ import annotations

import tomllib
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadInput
from aimer2.core.said import say
from aimer2.core.study import faults_of
from aimer2.core.task import Document, SiteId

Protection = Literal["network", "files", "namespace", "capabilities"]
"""no socket (seccomp) · only named trees (Landlock) · an empty network namespace · no capabilities"""


class CoordinatorAddress(Document):
    """Whom the site talks to, and how it knows that it is them."""

    url: str = Field(pattern=r"^https://")
    name: str
    key: str = Field(description="the key that signs every task, pinned at enrolment")
    fingerprint: str | None = Field(default=None, description="SHA-256 of the TLS certificate; none: an authority vouches for it")
    ca_file: Path | None = Field(default=None, description="certificate of the hospital's own authority, for a proxy that inspects TLS")
    wait_seconds: float = Field(default=50, gt=0, le=300, description="how long an open request waits; less where a proxy cuts off sooner")


class WorkerSettings(Document):
    """What the process that computes on patients' data may use; for each study of its own."""

    threads: int = Field(default=1, ge=1, description="more than 1 may change the last bits of a result")
    memory_mib: int = Field(default=8192, ge=256)
    disk_mib: int = Field(default=20_480, ge=16, description="updates and memory of one study that are kept here")
    cpu_hours: float = Field(default=100, gt=0, description="of one study in all")
    task_hours: float = Field(default=24, gt=0, description="of one task, by the clock")
    idle_seconds: float = Field(default=900, gt=0, description="after this without a task the worker ends; the next task starts it anew")
    spares: int = Field(default=1, ge=0, le=16, description="workers without a study that wait for the next; none with more than one thread")
    require: tuple[Protection, ...] = Field(default=("network", "files"), description="without these nothing runs")
    devices: tuple[Path, ...] = Field(default=(), description="for example /dev/nvidia0, /dev/nvidiactl, /dev/nvidia-uvm")


class Retention(Document):
    """How long copies of patients' data stay."""

    snapshots: int = Field(default=2, ge=1, description="so many of a data set are kept")
    days: float = Field(default=365, gt=0, description="a snapshot older than this is erased, also the last one")


class ConsoleSettings(Document):
    """Where the console listens. Beyond this machine only with TLS."""

    host: str = Field(default="127.0.0.1", description="the address that it listens on")
    port: int = Field(default=8444, ge=1, le=65_535)
    names: tuple[str, ...] = Field(default=(), description="by which names browsers reach it, besides `localhost` and the address itself")
    certificate: Path | None = Field(default=None, description="PEM, for TLS")
    private_key: Path | None = Field(default=None, description="PEM, for TLS")
    idle_minutes: float = Field(default=30, gt=0, description="of silence, after which a person logs in again")
    data_folders: tuple[Path, ...] = Field(default=(), description="where files lie that its people may make data sets of; none: by command only")
    session_hours: float = Field(default=10, gt=0, description="after which a person logs in again in any case")

    @property
    def tls(self) -> bool:
        return self.certificate is not None

    @property
    def address(self) -> str:
        """For a browser."""
        return f"{'https' if self.tls else 'http'}://{self.names[0] if self.names else self._own}:{self.port}"

    @property
    def hosts(self) -> frozenset[str]:
        """What it answers to, as the header `Host` has it."""
        names = {self._own, "localhost", *self.names}
        bare = names if self.port == (443 if self.tls else 80) else set[str]()
        return frozenset({f"{name}:{self.port}".lower() for name in names} | {name.lower() for name in bare})

    @property
    def _own(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    @model_validator(mode="after")
    def _listens_safely(self) -> Self:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("give both certificate and private_key, or neither")
        if not self.tls and not _is_loopback(self.host):
            raise ValueError("beyond this machine (host) it listens only with TLS: give certificate and private_key")
        return self


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Settings(Document):
    site: SiteId
    coordinator: CoordinatorAddress
    worker: WorkerSettings = WorkerSettings()
    retention: Retention = Retention()
    disclosure: Disclosure = Disclosure()
    console: ConsoleSettings = ConsoleSettings()
    tell_spending: bool = Field(default=True, description="a study with differential privacy is told what it, and it alone, was charged here")
    small_differences: Literal["warn", "refuse"] = Field(
        default="warn", description="when two sums in secret, one after the other, differ by one or two sites: recorded, or not opened either"
    )


AnyDocument = TypeVar("AnyDocument", bound=Document)


def read_toml(path: Path, kind: type[AnyDocument]) -> AnyDocument:
    """Raises BadInput with every fault of the file."""
    try:
        return kind.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        lines = "\n".join(f"  {fault}" for fault in faults_of(error))
        raise BadInput(say("{name} has faults:\n{lines}", name=path.name, lines=lines)) from None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(say("{path} cannot be read: {error}", path=path, error=error)) from None


def read_settings(path: Path) -> Settings:
    return read_toml(path, Settings)


def first_settings(site: str, coordinator: CoordinatorAddress) -> str:
    """The `site.toml` that `init` writes."""
    lines = [
        "# Settings of this site. Every value that is not named here is in docs/site-settings.md.",
        f'site = "{site}"',
        "",
        "[coordinator]",
        *(f"{name} = {_toml(value)}" for name, value in coordinator.model_dump(mode="json", exclude_none=True).items()),
        "",
        "[worker]",
        "memory_mib = 8192",
        "cpu_hours = 100",
        "",
        "[retention]",
        "snapshots = 2",
        "days = 365",
        "",
    ]
    return "\n".join(lines)


def _toml(value: str | float) -> str:
    if isinstance(value, str):
        escaped = "".join(f"\\u{ord(c):04x}" if ord(c) < 32 or c in '"\\' else c for c in value)
        return f'"{escaped}"'
    return str(value)
