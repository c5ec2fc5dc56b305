"""Two logs that hold each other's signed heads: neither can be changed, cut off or written anew unseen, even by who has its key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from aimer2.audit.heads import SignedHead, sign_head
from aimer2.audit.kinds import Kind
from aimer2.audit.log import AuditLog
from aimer2.audit.verify import verify
from aimer2.audit.witness import compare, signers
from aimer2.core.errors import Tampered
from aimer2.identity.keys import SigningKey

HUB, NORTH = SigningKey.generate(), SigningKey.generate()


class SetClock:
    """Each moment is a second after the one before, unless it is set."""

    def __init__(self) -> None:
        self.moment = 1_800_000_000.0

    def now(self) -> float:
        self.moment += 1
        return self.moment

    def monotonic(self) -> float:
        return self.moment


class Pair:
    """A coordinator's log and a site's, which exchange heads as they do over the wire."""

    def __init__(self, folder: Path) -> None:
        self.paths = {"hub": folder / "hub.jsonl", "north": folder / "north.jsonl"}
        self.keys = {"hub": HUB, "north": NORTH}
        self.clock = SetClock()

    def log(self, name: str) -> AuditLog:
        return AuditLog(self.paths[name], self.keys[name], self.clock)

    def work(self, name: str, *numbers: int) -> None:
        for number in numbers:
            self.log(name).append(Kind.TASK_FINISHED, actor=name, details={"number": number})

    def exchange(self) -> None:
        for owner, witness in (("north", "hub"), ("hub", "north")):
            head = sign_head(owner, self.log(owner).head(), time="2026-01-01T00:00:00Z", key=self.keys[owner])
            self.log(witness).append(Kind.HEAD_RECEIVED, actor=owner, details=head.details())

    def disagreements(self) -> list[tuple[str, int, int]]:
        """Log, line in it, line in the witness."""
        found = compare({path: [self.keys[name].public] for name, path in self.paths.items()}).disagreements
        return [(one.log.stem, one.line, one.witness_line) for one in found]

    def intact(self, name: str) -> bool:
        return verify(self.paths[name], self.keys[name].public).intact

    def write_anew(self, name: str, change: Callable[[int, str], str | None]) -> None:
        """The holder of the key writes a log of his own making that is without fault in itself; None: leaves the entry out."""
        entries = list(self.log(name).read())
        self.paths[name].unlink()
        log = self.log(name)
        for entry in entries:
            actor = change(entry.sequence, entry.actor)
            if actor is not None:
                self.clock.moment = datetime.fromisoformat(entry.time).timestamp() - 1
                log.append(Kind(entry.kind), actor=actor, details=entry.details)
        assert self.intact(name)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """north: 1-2 work, 3 head of the hub, 4-5 work, 6 head, 7 work. hub: 1 work, 2 head of north (2), 3 head of north (5)."""
    made = Pair(tmp_path)
    made.work("hub", 1)
    made.work("north", 1, 2)
    made.exchange()
    made.work("north", 3, 4)
    made.exchange()
    made.work("north", 5)
    return made


def test_untouched_logs_agree_in_every_head(pair: Pair) -> None:
    compared = compare({path: [pair.keys[name].public] for name, path in pair.paths.items()})
    assert (compared.heads, compared.disagreements) == (4, ())


def test_an_entry_changed_by_the_key_holder_is_named_by_the_first_head_after_it(pair: Pair) -> None:
    pair.write_anew("north", lambda number, actor: "eve" if number == 4 else actor)
    # Up to entry 2 the hub's first head still holds; its second one, of entry 5, does not.
    assert ("north", 5, 3) in pair.disagreements()
    compared = compare({path: [pair.keys[name].public] for name, path in pair.paths.items()})
    assert "up to entry 2 they agree" in compared.disagreements[0].sentence


def test_an_entry_left_out_is_found_though_the_numbers_are_whole_again(pair: Pair) -> None:
    pair.write_anew("north", lambda number, actor: None if number == 1 else actor)
    assert ("north", 2, 2) in pair.disagreements()


def test_a_log_that_was_cut_off_is_found_without_an_anchor(pair: Pair) -> None:
    lines = pair.paths["north"].read_bytes().splitlines(keepends=True)
    pair.paths["north"].write_bytes(b"".join(lines[:4]))
    assert pair.intact("north")
    assert pair.disagreements() == [("north", 0, 3)]


def test_the_coordinator_cannot_rewrite_its_past_either(pair: Pair) -> None:
    pair.write_anew("hub", lambda number, actor: "eve" if number == 1 else actor)
    assert ("hub", 2, 3) in pair.disagreements()


def test_what_came_after_the_last_head_is_not_covered(pair: Pair) -> None:
    pair.write_anew("north", lambda number, actor: "eve" if number == 7 else actor)
    assert pair.disagreements() == []


def test_a_forged_head_counts_for_nothing(pair: Pair) -> None:
    head = sign_head("north", pair.log("north").head(), time="2026-01-01T00:00:00Z", key=NORTH)
    forged = replace(head, sequence=1)
    pair.log("hub").append(Kind.HEAD_RECEIVED, actor="north", details=forged.details())
    assert pair.disagreements() == [("hub", 4, 0)]
    for wrong in (
        replace(head, digest="0" * 64),
        replace(head, time="2027-01-01T00:00:00Z"),
        replace(head, log="south"),
        replace(head, signature="x"),
    ):
        with pytest.raises(Tampered):
            wrong.check(NORTH.public)
    with pytest.raises(Tampered):
        head.check(HUB.public)
    with pytest.raises(Tampered):
        SignedHead.read({**head.details(), "more": 1})
    SignedHead.read(head.details()).check(NORTH.public)


def test_of_keys_that_are_given_together_each_log_takes_its_own(pair: Pair) -> None:
    keys = [HUB.public, NORTH.public]
    assert signers(pair.paths["north"], keys) == [NORTH.public]
    assert signers(pair.paths["hub"], keys) == [HUB.public]
