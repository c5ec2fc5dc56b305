"""A study in one process, with no network: the same encode → perform → decode path as between hospitals, and the same bits."""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, final

import numpy as np
import numpy.typing as npt
import pandas as pd
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aimer2.algorithms import catalogue
from aimer2.blobs.memory import MemoryStore
from aimer2.client.tables import Tables
from aimer2.connectors.frame import from_frame
from aimer2.connectors.table import Table
from aimer2.core import tree
from aimer2.core.clock import SystemClock
from aimer2.core.dataset import Dataset, rows_of
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadData, BadInput, NoResult
from aimer2.core.protocols import Algorithm, Learner
from aimer2.core.random import stream
from aimer2.core.study import Study
from aimer2.core.task import BlobRef, FigureDocument, SiteId
from aimer2.engines.forked import Forked
from aimer2.engines.in_process import InProcess
from aimer2.identity.keys import SigningKey
from aimer2.learners import processes
from aimer2.learners.catalogue import SharedLearner, frameworks, make_learner, make_vectorised
from aimer2.messages.package import digest as digest_of
from aimer2.messages.tensors import read_tree
from aimer2.secure_aggregation.vault import MemoryVault
from aimer2.study.check import refuse_faults
from aimer2.study.checkpoint import Remembered
from aimer2.study.cohort import feature_shape
from aimer2.study.compressing import Compression
from aimer2.study.conduct import Loop, conduct
from aimer2.study.events import Event, RoundFinished, StudyFinished, StudyPaused
from aimer2.study.pack import pack
from aimer2.study.perform import Participant, open_performer, shielded
from aimer2.study.performed import Performs
from aimer2.study.plan import Part, Plan
from aimer2.study.quorum import Patience
from aimer2.study.secure_update import SecureUpdate
from aimer2.study.site_level import SiteLevel

SiteData: TypeAlias = pd.DataFrame | Table | Dataset


@final
@dataclass(frozen=True, slots=True)
class Simulation:
    """What a simulated study gave; ``model`` of a study that asks statistical questions is what its methods found, ``tables`` the answers."""

    # told in full by nobody who prints the whole, as asyncio does once with what it has run
    model: Mapping[str, npt.NDArray[Any]] = field(repr=False)
    result: Mapping[str, Any] = field(repr=False)
    events: Sequence[Event] = field(repr=False)

    @property
    def tables(self) -> Tables:
        """The answers to statistical questions."""
        return Tables.of(self.result)

    @property
    def figures(self) -> Sequence[FigureDocument]:
        """The last model's figures, pooled over all sites' held-out patients."""
        measured = [event.figures for event in self.events if isinstance(event, RoundFinished) and event.figures]
        return measured[-1] if measured else ()


def simulate(  # noqa: PLR0913 - all that a simulation can be told, by name
    study: Study,
    sites: Mapping[SiteId, SiteData],
    *,
    folder: Path = Path(),
    patient: str | None = None,
    on_event: Callable[[Event], None] | None = None,
    order: Sequence[SiteId] | None = None,
    disclosure: Disclosure | None = None,
    workers: int | None = None,
    vectorised: bool = False,
) -> Simulation:
    """Runs the study over these sites' data in this process.

    A site's data are a DataFrame (``patient`` names the column of patient ids; without it each row is a patient), a Table, or any Dataset whose
    rows are ready for the model. ``folder`` holds the study's code. ``order`` permutes the order in which sites answer; it changes no bit.
    ``disclosure``: the limits that every site sets to answers of statistical questions; None: those of a hospital that says nothing.

    ``workers``: how many processes share the sites' work; None: one per core, as soon as a round takes long enough to be worth their start. Their
    number changes no bit. Each computes with one thread; on a GPU, with Keras and on other systems than Linux there is one.

    ``vectorised``: many sites' PyTorch models are trained in one batched computation, which is faster for many sites and a small model. The
    mathematics, the batches and the draws are the same; the rounding is not, so the last bits are no longer those of hospitals. Nothing is trained
    one by one in silence: what cannot be batched (dropout, batch normalisation, differential privacy of records, …) is refused.

    Raises BadStudy with all faults; BadInput for workers that cannot be; NotAvailable where ``vectorised`` cannot be; NoResult where the study
    could not go on, with the reason.
    """
    return _run(_simulate(study, _Given(sites, folder, patient, disclosure, workers, vectorised), on_event, order))


def federate(
    algorithm: Algorithm[Any],
    sites: Mapping[SiteId, tuple[Learner, Dataset]],
    *,
    rounds: int,
    steps: int = 1,
    batch_size: int | None = None,
    seed: int = 1,
    on_event: Callable[[Event], None] | None = None,
) -> Mapping[str, npt.NDArray[Any]]:
    """The loop without a study file: any algorithm over any learners and rows; starts from the first site's weights, returns the final model.

    Raises NoResult where too many sites fail, with their reasons.
    """
    if not sites:
        raise BadInput("There is no site to ask.")
    performers = {
        site: Participant(site=site, algorithm=algorithm, learner=learner, data=data, steps=steps, batch_size=batch_size, seed=seed)
        for site, (learner, data) in sites.items()
    }
    first, _ = sites[min(sites)]
    plan = Plan(
        digest=hashlib.sha256(repr((algorithm, sorted(sites), steps, batch_size, seed)).encode()).hexdigest(),
        roster=tuple(sorted(sites)),
        parts=(Part("train", algorithm, rounds, first.parameters()),),
        patience=Patience(len(sites), 3600.0),
    )
    return _run(_federate(plan, performers, on_event))


Outcome = TypeVar("Outcome")


def _run(work: Coroutine[Any, Any, Outcome]) -> Outcome:
    """Runs it to its end; beside the loop where one runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        here = True
    else:
        here = False
    if here:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as beside:
        return beside.submit(asyncio.run, work).result()


async def _federate(plan: Plan, sites: Mapping[SiteId, Performs], on_event: Callable[[Event], None] | None) -> Mapping[str, npt.NDArray[Any]]:
    blobs, past = MemoryStore(), Remembered()
    loop = Loop(plan, InProcess(sites, blobs), blobs, past, SystemClock())
    await _listen(loop.run(), past, on_event)
    assert loop.model is not None
    return _arrays(blobs, loop.model)


async def _listen(events: AsyncIterator[Event], past: Remembered, on_event: Callable[[Event], None] | None) -> None:
    """Raises NoResult where the study could not go on."""
    async for event in events:
        past.past.append(event)
        if on_event is not None:
            on_event(event)
        if isinstance(event, StudyPaused):
            raise NoResult(f"The study could not go on: {event.reason}")


def _arrays(blobs: MemoryStore, model: BlobRef) -> Mapping[str, npt.NDArray[Any]]:
    return {name: tree.load(leaf) for name, leaf in read_tree(blobs.open(model)).items()}


@final
@dataclass(frozen=True, slots=True)
class _Given:
    """What a study is simulated over."""

    sites: Mapping[SiteId, SiteData]
    folder: Path
    patient: str | None
    disclosure: Disclosure | None
    workers: int | None
    vectorised: bool


async def _simulate(
    study: Study,
    given: _Given,
    on_event: Callable[[Event], None] | None,
    order: Sequence[SiteId] | None,
) -> Simulation:
    sites, folder = given.sites, given.folder
    if not sites or (order is not None and sorted(order) != sorted(sites)):
        raise BadInput("There is no site to ask." if not sites else "`order` names every site once.")
    clock = SystemClock()
    study = _for_these(study, sites)
    refuse_faults(study, folder, clock)
    blobs, past = MemoryStore(), Remembered()
    files = {} if study.model.code is None else {study.model.code: folder / study.model.code}
    keys = {site: made_up_key(site) for site in sites}
    package = pack(study, folder, {site: key.public.text for site, key in keys.items()}, blobs, feature_shape=_feature_shape(sites))
    digest = digest_of(package)
    shared = _shared(study, files, given)
    performers = _performers(study, files, given, shared)
    secure = {}
    if study.privacy.secure_aggregation:
        secure = {site: SecureUpdate.of(package, digest, site, key, MemoryVault()) for site, key in keys.items()}
    whole = InProcess(
        performers,
        blobs,
        order=order,
        secure=secure,
        method=study.method,
        compression=Compression.of(study),
        private=SiteLevel.of(study, len(sites)),
        abreast=None if shared is None else shared.abreast,
    )
    workers = _workers(study, given)
    engine = Forked(whole, blobs, workers=workers, at_once=given.workers is not None, order=order or sorted(sites)) if workers > 1 else whole
    try:
        with processes.one_thread(), processes.settled():
            await _listen(conduct(package, digest, engine, blobs, past, clock=clock), past, on_event)
    finally:
        await engine.close()
    last = past.past[-1]
    assert isinstance(last, StudyFinished)
    return Simulation(_arrays(blobs, BlobRef(**last.result["model"])), last.result, tuple(past.past))


def _workers(study: Study, given: _Given) -> int:
    """How many processes do the sites' work. Raises BadInput for a number that cannot be."""
    if given.workers is not None and given.workers < 1:
        raise BadInput("`workers` is a number from 1.")
    why = processes.undivided(() if study.analyses else frameworks(study))
    if why and given.workers is not None and given.workers > 1:
        raise BadInput(f"There can be one worker only: {why}.", remedy="Leave `workers` out.")
    return 1 if why else min(given.workers or processes.cores(), len(given.sites))


def made_up_key(site: SiteId) -> SigningKey:
    """The same in every run, so that a simulated study has one digest. It protects nobody: all sites are this process."""
    return SigningKey(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"simulated site " + site.encode()).digest()))


def _for_these(study: Study, sites: Mapping[SiteId, SiteData]) -> Study:
    """The study asked of these sites; rows that are ready need no preparation. Raises BadStudy for a name that no site can have."""
    changed = study.model_dump()
    changed["sites"]["names"] = tuple(sorted(sites))
    if _feature_shape(sites) is not None:
        changed["cohort"] |= {"standardise": "none", "missing": "refuse"}
    return Study(**changed)


def _feature_shape(sites: Mapping[SiteId, SiteData]) -> tuple[int, ...] | None:
    """The shape of ready rows; None where the study's cohort says it."""
    shapes = {None if isinstance(data, pd.DataFrame | Table) else data.feature_shape for data in sites.values()}
    if len(shapes) > 1:
        told = "are tables at one site and rows that are ready at another" if None in shapes else "differ in the shape of their features"
        raise BadData(f"The sites' data {told}.")
    return next(iter(shapes))


def _shared(study: Study, files: Mapping[str, Path], given: _Given) -> SharedLearner | None:
    """The model that all sites train at once; None where each trains alone."""
    if not given.vectorised:
        return None
    shape = _feature_shape(given.sites)
    return make_vectorised(study, feature_shape=feature_shape(study.cohort) if shape is None else shape, files=files)


def _performers(study: Study, files: Mapping[str, Path], given: _Given, shared: SharedLearner | None) -> dict[SiteId, Performs]:
    """The sites' halves. Sites whose rows are ready share one learner: a ready-made model holds nothing from one site to the next."""

    def made(shape: tuple[int, ...]) -> Learner:
        return make_learner(study, feature_shape=shape, files=files) if shared is None else shared.learner()

    shares = study.model.code is None and study.privacy.differential_privacy is None and shared is None
    make = functools.cache(made) if shares else made
    opened = functools.partial(_of_table, study, files, given)
    return {
        site: opened(site, data, None if shared is None else shared.learner())
        if isinstance(data, pd.DataFrame | Table)
        else _ready(study, site, data, make)
        for site, data in given.sites.items()
    }


def _of_table(study: Study, files: Mapping[str, Path], given: _Given, site: SiteId, data: pd.DataFrame | Table, learner: Learner | None) -> Performs:
    patient = given.patient
    if isinstance(data, pd.DataFrame):
        if patient is not None and patient not in data.columns:
            raise BadData(f"There is no column {patient!r} at {site}.")
        data = from_frame(data, split_key=hashlib.sha256(site.encode()).digest(), patient=patient)
    return open_performer(study, data, site=site, files=files, disclosure=given.disclosure, learner=learner)


def _ready(study: Study, site: SiteId, data: Dataset, make: Callable[[tuple[int, ...]], Learner]) -> Participant:
    """A site whose rows need no preparation; each row counts as a patient. Raises BadData for a question that names columns."""
    if study.analyses:
        raise BadData("A statistical question needs named columns: give a DataFrame or a Table.")
    rows = np.arange(len(data))
    held = stream(study.seed, "held-out", site).random(len(data)) < study.evaluation.held_out
    train, held_out = (replace(rows_of(data, rows[part]), patients=None) for part in (~held, held))
    return Participant(
        site=site,
        algorithm=catalogue.make(study.method.name, study.method.rounds, study.method.parameters),
        learner=make(data.feature_shape),
        data=shielded(study, train),
        held_out=held_out if study.evaluation.held_out > 0 else None,
        steps=study.training.steps(len(train)),
        batch_size=study.training.batch_size,
        seed=study.seed,
        measures_rounds=study.privacy.differential_privacy is None,
    )
