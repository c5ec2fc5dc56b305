"""What every test stands on: where the clinical data are, repeatable drawn cases, one thread per process."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from playwright.sync_api import Browser, sync_playwright

# Two test processes share the cores; read by torch and the BLAS when they are first imported, here and in processes that tests start.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

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


def without(message: str) -> None:
    """A person's machine may lack a program; CI has it."""
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The system's own browser, driven by Playwright."""
    program = shutil.which("chromium")
    if program is None:
        without("no browser: install the package `chromium`")
    with sync_playwright() as playwright:
        # As root, and in a container, it has no sandbox of its own.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe-core, which finds what keeps people out of a page; fetched as `tests/browser/package-lock.json` pins it, not shipped."""
    npm = shutil.which("npm")
    if npm is None:
        without("no npm: install the packages `nodejs` and `npm`")
    folder = tmp_path_factory.mktemp("axe")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(Path(__file__).parent / "browser" / name, folder)
    fetched = subprocess.run([str(npm), "ci", "--no-audit", "--no-fund"], cwd=folder, check=False, capture_output=True, text=True, timeout=100)
    assert fetched.returncode == 0, fetched.stderr
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text("utf-8")
