"""Which data sets of a site hold the same patients: they have one privacy budget, for it is the patient who loses privacy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from aimer2.connectors.mapping import read_mapping
from aimer2.connectors.table import load_table
from aimer2.site import snapshots
from aimer2.site.folder import SiteFolder


def common_patients(folder: SiteFolder, dataset: str) -> Mapping[str, int]:
    """How many patients each other data set has in common with this one, by their pseudonyms; exact, for the site's own eyes.

    A data set without a column of patients says nothing of that: its rows are known by their place alone.
    """
    own = _patients(folder, dataset)
    others = {name: _patients(folder, name) for name in snapshots.names(folder) if name != dataset}
    counts = {name: len(np.intersect1d(own, patients)) for name, patients in others.items()}
    return {name: count for name, count in counts.items() if count}


def _patients(folder: SiteFolder, dataset: str) -> npt.NDArray[np.uint64]:
    records = snapshots.records(folder, dataset)
    if not records or not names_patients(folder, dataset):
        return np.empty(0, np.uint64)
    return load_table(records[-1].path, verify=False, sha256=records[-1].sha256).patient


def names_patients(folder: SiteFolder, dataset: str) -> bool:
    """Whether the mapping says which column tells patients apart."""
    mapping = folder.dataset(dataset) / "mapping.toml"
    return mapping.is_file() and read_mapping(mapping).patient is not None
