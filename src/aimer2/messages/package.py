"""A study as it is submitted: the document with everything it rests on, and the digest that a hospital approves."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Literal

import cbor2
from pydantic import Field

from aimer2.core.study import Study
from aimer2.core.study.fields import unset
from aimer2.core.task import BlobRef, Digest, Document, SiteId


class Package(Document):
    """The study, its code, its untrained weights, who is asked. Two packages with the same digest are the same study to the last bit."""

    format: Literal[1] = 1
    study: Study
    method_version: int = Field(description="version of the method's own module; a site refuses one that it does not have")
    versions: Mapping[str, int] = Field(default_factory=dict, exclude_if=unset, description="of each method of the analyses, likewise")
    files: Mapping[str, BlobRef] = Field(default_factory=dict, description="code beside the study: `model.py`")
    initial: BlobRef = Field(description="the untrained weights, a tensor blob")
    moments: BlobRef | None = Field(
        default=None, exclude_if=unset, description="of a study that measures a model: the means and deviations of that model's inputs, a tensor blob"
    )
    roster: Mapping[SiteId, str] = Field(description="every site asked, with its public key as the researcher saw it")
    supersedes: Digest | None = Field(default=None, exclude_if=unset, description="the version of the study before this one, whose place it takes")

    @property
    def blobs(self) -> tuple[BlobRef, ...]:
        """What is uploaded with it."""
        return (self.initial, *self.files.values(), *(() if self.moments is None else (self.moments,)))


def digest(package: Package) -> Digest:
    """SHA-256 over deterministic CBOR (RFC 8949, section 4.2) of the normalised package."""
    return hashlib.sha256(canonical(package)).hexdigest()


def canonical(package: Package) -> bytes:
    """The bytes that the digest is of."""
    return cbor2.dumps(_normal(package.model_dump(mode="json")), canonical=True)


def _normal(value: Any) -> Any:
    """Whole floats become integers, so that ``0.1 * 10`` written as 1.0 or 1 is one study."""
    if isinstance(value, dict):
        return {key: _normal(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_normal(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
