"""A site's refusal as it can be shown to others: signed by the site, so that nobody can put one into its mouth, nor change what it says."""

from __future__ import annotations

from aimer2.core.errors import AimerError
from aimer2.core.task import Refusal
from aimer2.identity.documents import open_document, sign_document
from aimer2.identity.keys import PublicKey, SigningKey
from aimer2.messages.told import REFUSAL, Refused


def signed(refusal: Refusal, study: str, key: SigningKey, now: float) -> Refusal:
    """The same, with the site's signature under it and the study's digest."""
    said = Refused(study=study, time=now, **refusal.model_dump(exclude={"kind", "signed"}))
    return refusal.model_copy(update={"signed": sign_document(said.model_dump_json().encode(), key, kind=REFUSAL)})


def said_in(statement: str, key: PublicKey) -> Refused | None:
    """What the site has signed; None where this is not a refusal under its key."""
    try:
        return Refused.model_validate_json(open_document(statement, key, kind=REFUSAL))
    except (AimerError, ValueError):
        return None


def vouched(refusal: Refusal, study: str, key: PublicKey) -> Refusal:
    """As it came where the signature holds for it; else without: the record has no statement that its site has not made."""
    said = said_in(refusal.signed, key)
    told = refusal.model_dump(exclude={"kind", "signed"}) | {"study": study}
    holds = said is not None and said.model_dump(exclude={"time"}) == told
    return refusal if holds else refusal.model_copy(update={"signed": ""})
