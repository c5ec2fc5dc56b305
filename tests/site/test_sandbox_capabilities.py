"""The probe tells the truth about this machine and leaves the caller free."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from aimer2.site.sandbox import Capabilities, capabilities, landlock
from aimer2.site.sandbox.capabilities import NOTHING
from aimer2.site.sandbox.kernel import architecture


@pytest.mark.skipif(architecture() is None, reason="needs Linux on x86_64 or aarch64")
def test_the_probe_finds_what_the_kernel_offers_and_confines_only_its_child() -> None:
    found = capabilities()
    assert found.landlock == landlock.abi()
    assert found.seccomp
    socket.socket().close()
    assert Path("/etc/passwd").read_bytes()


def test_a_probe_that_dies_counts_as_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert capabilities() == NOTHING


def test_each_lack_is_said_with_what_to_do() -> None:
    everything = Capabilities(seccomp=True, landlock=7, namespaces=True, user_switch=True)
    lacking = NOTHING.describe()
    assert len(lacking) == len(everything.describe()) == 4
    assert all(": yes" in sentence or "protected" in sentence for sentence in everything.describe())
    assert all(": no" in sentence.lower() for sentence in lacking)
