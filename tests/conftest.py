"""What every test stands on: where the clinical data are, repeatable drawn cases, one thread per process."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from playwright.sync_api import Browser
from tests import browser

# Two test processes share the cores; read by torch and the BLAS when they are first imported, here and in processes that tests start.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

# Hundreds of processes are started here: each would compile our source anew where an image forbids to keep what was compiled.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("campaign", max_examples=5_000, deadline=None)
settings.load_profile("ci")


@pytest.fixture(scope="session")
def tensorflow() -> None:
    """Tests that ask for this run where TensorFlow and Keras are."""
    if importlib.util.find_spec("tensorflow") and importlib.util.find_spec("keras"):
        return
    message = "TensorFlow and Keras are not installed: pip install 'aimer2[keras]'"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def data_dir(request: pytest.FixtureRequest) -> Path:
    """The folder of clinical data sets: AIMER2_DATA, or shared/data beside the checkout."""
    named = os.environ.get("AIMER2_DATA")
    folder = Path(named) if named else request.config.rootpath.parent / "shared" / "data"
    if folder.is_dir():
        return folder
    message = f"no clinical data sets at {folder}: set AIMER2_DATA to the folder that holds them"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The system's own browser. For a module: what drives it leaves an event loop at work, in which no other test could run one."""
    with browser.chromium() as opened:
        yield opened
