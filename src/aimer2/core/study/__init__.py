"""The study: one document that says the question, the data, the method, the sites and the terms.

The same document is written as ``study.toml``, built in Python as ``Study(...)``, shown to every hospital and hashed into the digest that a
hospital approves. This module knows its form; `aimer2.study.check` knows whether what it names exists.
"""

from __future__ import annotations

from aimer2.core.study.analyses import Analysis
from aimer2.core.study.cohort import Cohort, Feature, Target
from aimer2.core.study.faults import faults_of
from aimer2.core.study.fields import NAME, Scalar
from aimer2.core.study.image import Image
from aimer2.core.study.study import Study, read_study
from aimer2.core.study.terms import DifferentialPrivacy, Evaluation, Privacy, Sites
from aimer2.core.study.text import study_text
from aimer2.core.study.training import Compression, Method, Model, Training

__all__ = [
    "NAME",
    "Analysis",
    "Cohort",
    "Compression",
    "DifferentialPrivacy",
    "Evaluation",
    "Feature",
    "Image",
    "Method",
    "Model",
    "Privacy",
    "Scalar",
    "Sites",
    "Study",
    "Target",
    "Training",
    "faults_of",
    "read_study",
    "study_text",
]
