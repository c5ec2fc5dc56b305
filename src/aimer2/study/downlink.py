"""How what a round broadcasts reaches the sites: whole, or packed without loss, and what a site has already is not sent again.

A task names each input by the digest of its whole bytes, whatever way they take; so the way changes no bit of a study, and a site that cannot use
what it is offered fetches the whole.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, final

from aimer2.compression import lossless
from aimer2.core.errors import NotFound, Tampered
from aimer2.core.protocols import Blob, BlobStore
from aimer2.core.task import BlobRef, Packed, SiteId, Task
from aimer2.messages.wire import ATTACHED_BYTES


@final
@dataclass(frozen=True, slots=True)
class Sent:
    """What the last round sent, and to whom: the sites whose answer counted have it."""

    inputs: Mapping[str, BlobRef] = field(default_factory=dict)
    sites: frozenset[SiteId] = frozenset()

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        return cls({name: BlobRef(**ref) for name, ref in document.get("inputs", {}).items()}, frozenset(document.get("sites", ())))

    @classmethod
    def by(cls, tasks: Mapping[SiteId, Task], answered: Collection[SiteId]) -> Self:
        first = next(iter(tasks.values()))
        return cls(first.inputs, frozenset(answered))

    def document(self) -> dict[str, Any]:
        return {"inputs": {name: ref.model_dump() for name, ref in self.inputs.items()}, "sites": sorted(self.sites)}

    def has(self, site: SiteId, ref: BlobRef) -> bool:
        """Whether the site keeps this blob: small ones ride along with each task and are not kept."""
        return site in self.sites and ref.size > ATTACHED_BYTES and ref in self.inputs.values()


def offers(kind: str | None, inputs: Mapping[str, BlobRef], sites: Sequence[SiteId], sent: Sent, blobs: BlobStore) -> dict[SiteId, dict[str, Packed]]:
    """Of each site the large inputs that it need not fetch whole; each is packed once for all sites that take it the same way.

    ``kind``: as `Method.downlink` has it.
    """
    made: dict[tuple[str, bool], Packed | None] = {}
    found: dict[SiteId, dict[str, Packed]] = {site: {} for site in sites}
    for name, ref in inputs.items() if kind is not None else ():
        if ref.size <= ATTACHED_BYTES:
            continue
        for site in sites:
            if sent.has(site, ref):
                continue
            base = sent.inputs.get(name) if kind == "changes" and site in sent.sites else None
            if (name, base is None) not in made:
                made[name, base is None] = _packed(ref, base, blobs)
            if (one := made[name, base is None]) is not None:
                found[site][name] = one
    return found


def bytes_of(task: Task, sent: Sent) -> int:
    """That the task sends to its site: its inputs as they are offered, without what the site has."""
    return sum(task.packed[name].blob.size if name in task.packed else ref.size for name, ref in task.inputs.items() if not sent.has(task.site, ref))


def _packed(ref: BlobRef, base: BlobRef | None, blobs: BlobStore) -> Packed | None:
    """None where it would not be smaller."""
    old = None
    if base is not None and base.size == ref.size:
        try:
            old = blobs.open(base)
        except NotFound:
            old = None
    writer = blobs.create()
    try:
        lossless.pack(blobs.open(ref), old, writer)
        blob = writer.commit()
    except BaseException:
        writer.abandon()
        raise
    if blob.size >= ref.size:
        blobs.delete(blob)
        return None
    return Packed(blob=blob, base=None if old is None else old.ref.sha256)


def unpacked(packed: Blob, base: Blob | None, ref: BlobRef, blobs: BlobStore) -> Blob:
    """The whole, stored. Raises BadUpdate, Tampered where the packed bytes are not those of this blob."""
    writer = blobs.create()
    try:
        lossless.unpack(packed, base, ref.size, writer)
        made = writer.commit()
    except BaseException:
        writer.abandon()
        raise
    if made != ref:
        blobs.delete(made)
        raise Tampered("What was packed is another blob than the one announced.")
    return blobs.open(ref)
