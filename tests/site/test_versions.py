"""What the people of a hospital read about a new version: what changed against the one that they have approved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from aimer2.blobs.folder import FolderStore
from aimer2.core.study import Study
from aimer2.identity.keys import SigningKey
from aimer2.messages.package import Package, digest
from aimer2.site.decisions import Decisions
from aimer2.site.performing import lay_out
from aimer2.site.versions import code_of, describe_change
from aimer2.study.pack import pack

KEY = SigningKey.generate().public.text
CODE = "from aimer2.models.linear import Logistic\n\ndef build(features, classes):\n    return Logistic(features)\n"


@pytest.fixture
def offer(site: Decisions, a_study: Callable[..., Study], tmp_path: Path) -> Callable[..., tuple[Package, str]]:
    """A version with code of its own, as the agent has fetched and laid it out."""

    def make(code: str, supersedes: str | None = None, rounds: int = 3) -> tuple[Package, str]:
        (tmp_path / "model.py").write_text(code)
        blobs = FolderStore(tmp_path / "blobs")
        study = a_study(model={"framework": "numpy", "code": "model.py"}, method={"name": "fedavg", "rounds": rounds})
        package = pack(study, tmp_path, {"north": KEY}, blobs).model_copy(update={"supersedes": supersedes})
        name = digest(package)
        site.store.note_study(name, "offered", 1.0)
        site.store.keep_package(name, package)
        lay_out(site.folder.study(name), package, blobs)
        return package, name

    return make


def read(site: Decisions, package: Package, name: str) -> str:
    return "\n".join(describe_change(site, package, code_of(site, name, package)))


def test_a_first_version_is_compared_with_nothing(site: Decisions, offer: Callable[..., tuple[Package, str]]) -> None:
    assert describe_change(site, offer(CODE)[0], {}) == []


def test_it_is_compared_with_the_version_that_was_approved_not_with_one_in_between(
    site: Decisions, offer: Callable[..., tuple[Package, str]]
) -> None:
    _, first = offer(CODE)
    site.approve(first, by="Dr Grace")
    between, second = offer(CODE, first, rounds=4)
    assert "method.rounds: 3 → 4" in read(site, between, second)
    last, third = offer(CODE.replace("return", "import os; return"), second, rounds=5)
    told = read(site, last, third)
    assert f"against {first[:16]}, which Dr Grace approved on" in told
    assert "method.rounds: 3 → 5" in told
    assert "-    return Logistic(features)" in told
    assert "+    import os; return Logistic(features)" in told
    assert "needs an approval of its own" in told
    # The approval is of the first alone.
    assert site.store.decision(third) is None


def test_one_that_nobody_here_has_approved_and_one_that_is_not_known(site: Decisions, offer: Callable[..., tuple[Package, str]]) -> None:
    _, first = offer(CODE)
    assert "which nobody here has approved" in read(site, *offer(CODE, first, rounds=4))
    assert "does not know that study" in read(site, *offer(CODE, "0" * 64))
