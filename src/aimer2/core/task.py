"""What a coordinator asks of a site, and what comes back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from aimer2.core.said import PLACE, Said

SITE_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def _site_id(text: str) -> str:
    if not SITE_ID.fullmatch(text):
        raise ValueError("a site's name has lower-case letters, digits and '-', at most 63 characters")
    return text


SiteId: TypeAlias = Annotated[str, AfterValidator(_site_id)]
Digest: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256, hexadecimal")]


_DEEPEST = 4
"""So many sentences may lie within each other."""


class Document(BaseModel):
    """A versioned message: frozen, nothing unknown in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Words(Document):
    """What a sentence was made of: its message in English, and the values in its places."""

    message: str
    values: Mapping[str, str | Words] = Field(default_factory=dict)

    @classmethod
    def of(cls, said: Said) -> Words:
        return cls(
            message=said.message, values={name: cls.of(value) if isinstance(value, Said) else str(value) for name, value in said.values.items()}
        )

    def said(self, text: object) -> Said | None:
        """The sentence, where it says this text; None where it says another. Nothing longer than the text is put together for it."""
        if not isinstance(text, str) or self._length(len(text)) != len(text):
            return None
        said = self._said()
        return said if said == text else None

    def _said(self) -> Said:
        return Said(self.message, {name: value._said() if isinstance(value, Words) else value for name, value in self.values.items()})

    def _length(self, most: int, depth: int = 0) -> int:
        """Characters of the sentence; more than ``most`` where a value is too long, lies too deep, or has no place: it would go along unseen."""
        lengths = {name: value._length(most, depth + 1) if isinstance(value, Words) else len(value) for name, value in self.values.items()}
        places = PLACE.findall(self.message)
        if depth > _DEEPEST or any(length > most for length in lengths.values()) or not lengths.keys() <= set(places):
            return most + 1
        return len(self.message) + sum(lengths[place] - len(place) - 2 for place in places if place in lengths)


class Telling(Document):
    """A document with sentences: each stands in it as English text, and in ``words`` so that it can be told in another language."""

    words: Mapping[str, Words] = Field(
        default_factory=dict,
        exclude_if=lambda words: not words,
        description="of sentences with values, by the field they stand in; a plain one has none",
    )

    @model_validator(mode="before")
    @classmethod
    def _write(cls, given: Any) -> Any:
        """Text that was made of a message is kept together with it."""
        if not isinstance(given, Mapping):
            return given
        words = {name: Words.of(text) for name, text in given.items() if isinstance(text, Said) and text.values}
        return {**given, "words": {**given.get("words", {}), **words}} if words else given

    @model_validator(mode="after")
    def _read(self) -> Self:
        """Words that do not say what the text says are not believed, nor kept."""
        believed = {}
        for name, words in self.words.items():
            if (said := words.said(self.__dict__.get(name))) is not None:
                self.__dict__[name], believed[name] = said, words
        if len(believed) < len(self.words):
            self.__dict__["words"] = believed
        return self


def restored(document: dict[str, Any]) -> dict[str, Any]:
    """A `Telling` that was read as plain JSON, with its sentences as they were made: an ``object_hook`` of `json.loads`."""
    words = document.get("words")
    for name, made in words.items() if isinstance(words, dict) else ():
        try:
            said = Words.model_validate(made).said(document.get(name))
        except ValueError:
            continue
        if said is not None:
            document[name] = said
    return document


class BlobRef(Document):
    """Bytes by their content: SHA-256 and length."""

    sha256: Digest
    size: int = Field(ge=0)


Stage: TypeAlias = Literal["preflight", "moments", "train", "final", "analyse"]
"""What a study goes through: the data contract, the federated standardisation, the method's rounds, the evaluation of the last model; or the
data contract and the rounds of its statistical questions."""

ITERATED: tuple[Stage, ...] = ("train", "analyse")
"""The stages that end when their method has finished, and leave the study's model or its answers."""


Phase: TypeAlias = Literal["update", "keys", "shares", "agree", "reveal"]
"""What is asked within a round: the update, or a step of the protocol that sums the updates in secret (`aimer2.secure_aggregation`)."""

SET_UP: tuple[Phase, ...] = ("keys", "shares")
"""Asked once for several rounds, before the first of them."""


def task_id(study: Digest, stage: Stage, round_number: int, site: SiteId, phase: Phase = "update") -> str:
    """The name of a study's task, whatever its attempt."""
    name = f"{study[:16]}-{stage}-{round_number}-{site}"
    return name if phase == "update" else f"{name}-{phase}"


class Packed(Document):
    """An input in fewer bytes, without loss."""

    blob: BlobRef
    base: Digest | None = Field(default=None, description="the input that the site has from before, which this is the change of; none: of nothing")


class Task(Document):
    """One thing for one site to do in one round. Asking again with the same id and attempt changes nothing."""

    id: str = Field(min_length=1, max_length=128, description="unique in the study; the same for the same round, attempt and site")
    study: str = Field(description="digest of the approved study")
    site: SiteId
    stage: Stage
    round_number: int = Field(ge=0, description="counts from 1 within the stage")
    attempt: int = Field(ge=1, default=1)
    phase: Phase = "update"
    inputs: Mapping[str, BlobRef] = Field(default_factory=dict, description="what the algorithm broadcasts: one blob per named tree")
    packed: Mapping[str, Packed] = Field(
        default_factory=dict, description="of inputs: what may be fetched in their place; who cannot use it fetches the input itself"
    )
    counted: int = Field(
        default=0, ge=0, description="the last training round whose sum holds this site's answer: what it remembers of later ones it takes back"
    )
    message: str = Field(default="", description="of a sum in secret: what the phase is about, a document of the protocol")

    @property
    def blobs(self) -> tuple[BlobRef, ...]:
        """All that a site may fetch for it."""
        return (*self.inputs.values(), *(packed.blob for packed in self.packed.values()))

    @property
    def bases(self) -> tuple[BlobRef, ...]:
        """What a site should have from before, so that it can use what is packed; of the size of what is packed."""
        offered = ((name, packed.base) for name, packed in self.packed.items())
        return tuple(BlobRef(sha256=base, size=self.inputs[name].size) for name, base in offered if base is not None)


class Answer(Document):
    """The site did it: one blob per named sum, the checks of a preflight, or its message in a phase of a sum in secret."""

    kind: Literal["answer"] = "answer"
    task: str
    attempt: int
    site: SiteId
    sums: Mapping[str, BlobRef] = Field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    message: str = ""
    released: tuple[FigureDocument, ...] = Field(default=(), description="the site's own figures, once, where the approved study releases them")


class FigureDocument(Telling):
    """A measured figure with its 95 % interval; no value where it is undefined, and the note says why."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int
    note: str = ""


class Check(Telling):
    """One line of a site's preflight."""

    name: str
    passed: bool
    blocking: bool = True
    finding: str = Field(description="one sentence; disclosure-controlled, never a value of a patient")


class Refusal(Telling):
    """The site will not: a normal outcome, with a reason a person can read."""

    kind: Literal["refusal"] = "refusal"
    task: str
    attempt: int
    site: SiteId
    code: str
    reason: str
    signed: str = Field(default="", exclude_if=lambda text: not text, description="the same under the site's signature, a Refused as JWS")


class Failure(Telling):
    """The site could not: a code and that code's own sentence, never an exception's text."""

    kind: Literal["failure"] = "failure"
    task: str
    attempt: int
    site: SiteId
    code: str
    reason: str


Reply: TypeAlias = Annotated[Answer | Refusal | Failure, Field(discriminator="kind")]
Answer.model_rebuild()
