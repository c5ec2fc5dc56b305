"""Chromium as people use it, for tests of pages; and axe, which finds what keeps somebody from using them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

AXE = Path(__file__).parent / "integration" / "node_modules" / "axe-core" / "axe.min.js"
_RUN = "axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa']})"


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's. Skips where it is missing on a person's machine, fails where CI=true."""
    found = shutil.which("chromium")
    if found is None:
        _missing("no Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def barriers(page: Page, rules: str | None = None) -> list[str]:
    """What axe calls serious or critical on this page: the rule, and where. ``rules``: which it goes by, as axe writes them."""
    if not AXE.is_file():
        _missing("no axe: npm ci in tests/integration")
    # Told to the page from outside, for its policy lets no script in.
    if page.evaluate("!window.axe"):
        page.evaluate(AXE.read_text(encoding="utf-8"))
    found: dict[str, Any] = page.evaluate(_RUN if rules is None else f"axe.run({{runOnly: {rules}}})")
    assert found["passes"], "axe has looked"
    serious = [one for one in found["violations"] if one["impact"] in ("serious", "critical")]
    return [f"{one['id']} at {node['target']}: {node.get('failureSummary', '')}" for one in serious for node in one["nodes"]]


def _missing(message: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)
