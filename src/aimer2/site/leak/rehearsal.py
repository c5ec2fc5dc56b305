"""The attacks on this hospital's own rows, under the study's terms. Runs in the confined worker, as the study's own code does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

import numpy as np

from aimer2.attacks import sums
from aimer2.connectors.table import Table
from aimer2.core import tree
from aimer2.core.dataset import Samples, part_at
from aimer2.core.errors import BadData
from aimer2.core.protocols import Learner, Local
from aimer2.core.random import stream
from aimer2.core.said import mark
from aimer2.core.study import Study
from aimer2.core.tree import Tree
from aimer2.learners import code
from aimer2.learners.catalogue import make_learner
from aimer2.models import catalogue as models
from aimer2.privacy.site_terms import site_terms
from aimer2.privacy.terms import terms
from aimer2.secure_aggregation.roster import threshold
from aimer2.site.leak.effort import USUAL, Effort
from aimer2.site.leak.findings import Findings, Tell, Told, unheard
from aimer2.site.leak.hospitals import Hospitals
from aimer2.site.leak.rebuilding import Rebuilding, Scale
from aimer2.site.leak.tracing import Trace, trace, untried
from aimer2.site.leak.view import view
from aimer2.statistics.moments import Moments
from aimer2.study import cohort, preflight
from aimer2.study.pack import initialise
from aimer2.study.site_level import SiteLevel

DIFFERENCE = "difference"

LEAST_IMAGES = 64

LEAST_SITES = 3
"""Fewer than these give no sum that hides anybody."""


@final
@dataclass(slots=True)
class Rehearsal:
    """``spent``: processor seconds of this process so far; ``records``: how many of the hospital's records are attacked."""

    study: Study
    table: Table
    files: Mapping[str, Path]
    spent: Callable[[], float]
    records: int = 32
    effort: Effort = USUAL
    notes: list[str] = field(default_factory=list)

    def findings(self, tell: Tell = unheard) -> Findings:
        """``tell`` hears after each part how many are done, and of how many. Raises BadData where the data do not meet the study's contract."""
        began = self.spent()
        design, moments, all_rows = self._rows()
        rows = self._in_memory(all_rows)
        clear = self.study.model_copy(update={"privacy": self.study.privacy.model_copy(update={"differential_privacy": None})})
        hospitals = Hospitals(clear, self._learner(clear, rows), rows)
        private = self._private(rows)
        initial = {name: np.array(tree.load(leaf)) for name, leaf in hospitals.learner.parameters().items()}
        rng = stream(self.study.seed, "rehearsal")
        scale, module = self._scale(design, moments), self._module(rows)
        effort, image = self.effort, self.study.cohort.image
        rebuilding = Rebuilding(hospitals, private, initial, self.sites, scale, module, rng, self.spent, self.notes, effort, image)
        update = hospitals.first_update(initial, np.arange(len(rows)), 0)
        trains = DIFFERENCE in update.sums
        if not trains:
            self.notes.append(f"The method sends no weights but {', '.join(sorted(update.sums))}: these sums were not attacked here.")
        sizes = self._sizes(hospitals, initial) if trains else []
        parts = len(sizes) + 2
        levels = []
        for done, size in enumerate(sizes, 1):
            tell(done, parts)
            levels.append(rebuilding.level(size, self.records))
        tell(parts - 1, parts)
        setting = Trace(hospitals, private, initial, self.sites, rng)
        return Findings(
            sites=self.sites,
            secure=self.study.privacy.secure_aggregation,
            noise=_of_the_noise(self.study),
            rows=len(all_rows),
            attacked=len(rows),
            features=rebuilding.width,
            parameters=sum(leaf.size for leaf in initial.values()),
            levels=tuple(levels),
            example=rebuilding.example,
            words=view(update, self.sites),
            tracing=trace(setting, self.spent, effort) if trains else untried(mark("the method sends no weights")),
            told=tuple(self._told(design, hospitals.learner)),
            notes=tuple(dict.fromkeys(self.notes)),
            seconds=self.spent() - began,
        )

    @property
    def sites(self) -> int:
        """The fewest hospitals whose sum a round of this study opens, and never fewer than hide anybody."""
        size = self.study.privacy.group_size
        return max(LEAST_SITES, self.study.sites.needed if size is None else threshold(size))

    def _private(self, rows: Samples) -> Hospitals | None:
        """With the study's noise, where it has any."""
        if self.study.privacy.differential_privacy is None:
            return None
        return Hospitals(self.study, self._learner(self.study, rows), rows, SiteLevel.of(self.study, self.sites))

    def _rows(self) -> tuple[cohort.Design, cohort.Moments, Samples]:
        checks = preflight.checks(self.study, self.table, preflight.probe(Path.cwd()))
        unmet = [check.finding for check in checks if check.blocking and not check.passed]
        if unmet:
            raise BadData(" ".join(unmet))
        train, _ = cohort.split(cohort.design(self.study.cohort, self.table), self.study.evaluation.held_out)
        moments = cohort.own_moments(train)
        rows = cohort.complete(train, self.study.cohort, moments)
        if self.study.cohort.common_moments:
            self.notes.append(mark("Columns are standardised by this hospital's own means; in the study by those of all hospitals."))
        return train, moments, rows

    def _in_memory(self, rows: Samples) -> Samples:
        """Images prepared as the model sees them, as many as the time allows."""
        if self.study.cohort.image is None:
            return rows
        most = max(LEAST_IMAGES, self.effort.values // int(np.prod(rows.feature_shape)))
        if len(rows) > most:
            self.notes.append(f"Of {len(rows)} images {most} were drawn; the update of your hospital is made of all.")
            rows = rows.at(np.sort(stream(self.study.seed, "rehearsal", "images").choice(len(rows), most, replace=False)))
        return Samples(np.asarray(rows.features), np.asarray(rows.targets), rows.patients, rows.groups)

    def _sizes(self, hospitals: Hospitals, initial: Tree) -> list[int]:
        """A single record where a model can be trained on one, a few, as many as are attacked, all."""
        rows, least = len(hospitals.samples), 1
        try:
            hospitals.first_update(initial, np.arange(1), 0)
        except BadData:
            least = 2
            self.notes.append(mark("The model cannot be trained on a single record (batch normalisation); the smallest updates are of two."))
        return sorted({size for size in (least, 4, self.records, rows) if size <= rows})

    def _learner(self, study: Study, rows: Samples) -> Learner:
        learner = make_learner(study, feature_shape=rows.feature_shape, files=self.files, device="cpu")
        initialise(learner, study)
        return learner

    def _scale(self, design: cohort.Design, moments: cohort.Moments) -> Scale:
        """Found by letting the study's own preparation work on a row of zeros and a row of ones."""
        pair = np.vstack([np.zeros(len(design.names)), np.ones(len(design.names))])
        two = cohort.Design(design.names, design.numeric, pair, part_at(design.targets, np.arange(2)), design.patient[:2])
        both = cohort.complete(two, self.study.cohort, moments)
        zeros, ones = np.asarray(both.features)
        step = ones - zeros
        unit = 1 / np.where(step == 0, 1.0, step)
        return Scale(design.names, -zeros * unit, unit)

    def _module(self, rows: Samples) -> Any:
        """The study's torch module; None for other frameworks, whose updates are read off the first layer alone."""
        model, target = self.study.model, self.study.cohort.target
        if model.framework != "torch" or find_spec("torch") is None:
            self.notes.append(mark("Without torch no records are searched by optimisation; updates are read off the first layer alone."))
            return None
        if model.code is None:
            beside = cohort.design_width(self.study.cohort) if self.study.cohort.image is not None else 0
            return models.build("torch", model.name or "", rows.feature_shape, target.classes, model.options, target.kind, beside)
        features = rows.feature_shape[0] if len(rows.feature_shape) == 1 else rows.feature_shape
        build = code.load_build(self.files[model.code])
        with code.refusing():
            return build(features, target.classes, **model.options)

    def _told(self, design: cohort.Design, learner: Learner) -> Iterator[Told]:
        """What the sums of the standardisation say of each column, computed from the very sums that leave."""
        if not self.study.cohort.common_moments:
            return
        statistics, rows = Moments(), Samples(design.features, design.targets)
        width = len(design.names)
        state = statistics.init({name: np.zeros(width) for name in ("count", "mean", "deviation")})
        sent = []
        for number in (1, 2):
            local = Local(data=rows, learner=learner, memory={}, rng=stream(0), round_number=number, steps=1, batch_size=None)
            sent.append(statistics.local(statistics.broadcast(state), local))
            state = statistics.update(state, sent[-1])
        found = sums.columns_of(sent[0].sums, sent[1].sums)
        for place, name in enumerate(design.names):
            yield Told(column=name[:200], count=int(found.count[place]), mean=float(found.mean[place]), deviation=float(found.deviation[place]))


def _of_the_noise(study: Study) -> str:
    if study.privacy.differential_privacy is None:
        return ""
    if study.privacy.of_sites is not None:
        whole = site_terms(study)
        return f"{whole.noise_multiplier:g} times the clip norm {whole.clip_norm:g} in the sum of each of {whole.rounds} rounds"
    noise = terms(study)
    return f"{noise.noise_multiplier:g} times the clip norm {noise.clip_norm:g} in each of {noise.rounds} × {noise.local_steps} steps"
