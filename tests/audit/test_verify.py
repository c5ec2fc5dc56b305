from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aimer2.audit.entries import Entry, Head, digest
from aimer2.audit.kinds import Kind
from aimer2.audit.log import EMPTY, AuditLog
from aimer2.audit.verify import MOST_PROBLEMS, Verification, verify
from aimer2.core.errors import BadInput, NotFound
from aimer2.identity.keys import SigningKey

KEY = SigningKey.generate()
OTHER = SigningKey.generate()
LENGTH = 8


class SetClock:
    def now(self) -> float:
        return 1_800_000_000.0

    def monotonic(self) -> float:
        return 0.0


def written(key: SigningKey, name: str) -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        log = AuditLog(Path(folder) / "log", key, SetClock())
        for number in range(LENGTH):
            log.append(Kind.TASK_FINISHED, actor=name, study="ab12", details={"number": number})
        return (Path(folder) / "log").read_bytes().splitlines(keepends=True)


LINES = written(KEY, "agent")
FOREIGN = [*written(KEY, "another log"), *written(OTHER, "agent")]
ANCHOR = Head(LENGTH, digest(LINES[-1][:-1]))


def verified(lines: list[bytes], *, anchor: Head | None = None, key: SigningKey = KEY) -> Verification:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        path.write_bytes(b"".join(lines))
        return verify(path, key.public, anchor=anchor)


def codes(result: Verification) -> list[tuple[int, str]]:
    return [(problem.line, problem.code) for problem in result.problems]


def test_an_untouched_log_has_no_problems() -> None:
    result = verified(LINES, anchor=ANCHOR)
    assert result.intact
    assert result.entries == LENGTH
    assert result.first == Entry.parse(LINES[0][:-1])
    assert result.last == Entry.parse(LINES[-1][:-1])
    assert result.head == ANCHOR
    assert verified(LINES, anchor=Head(3, digest(LINES[2][:-1]))).intact
    assert verified(LINES, anchor=EMPTY).intact
    assert verified([]).intact


@settings(deadline=None)
@given(st.integers(0, LENGTH - 1), st.data())
def test_any_flipped_bit_is_found_where_it_is(line: int, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(LINES[line]) - 1))
    bit = data.draw(st.integers(0, 7))
    changed = bytearray(LINES[line])
    changed[place] ^= 1 << bit
    result = verified([*LINES[:line], bytes(changed), *LINES[line + 1 :]])
    assert not result.intact
    assert result.problems[0].line == line + 1


@settings(deadline=None)
@given(st.sets(st.integers(0, LENGTH - 2), min_size=1))
def test_removed_entries_are_found(gone: set[int]) -> None:
    assert not verified([line for number, line in enumerate(LINES) if number not in gone]).intact


@settings(deadline=None)
@given(st.permutations(range(LENGTH)))
def test_another_order_is_found(order: list[int]) -> None:
    assume(order != sorted(order))
    assert not verified([LINES[number] for number in order]).intact


@settings(deadline=None)
@given(st.integers(0, LENGTH), st.sampled_from([*LINES, *FOREIGN]))
def test_an_inserted_entry_is_found(place: int, line: bytes) -> None:
    assert not verified([*LINES[:place], line, *LINES[place:]]).intact


@settings(deadline=None)
@given(st.integers(0, LENGTH - 1), st.sampled_from(FOREIGN))
def test_an_entry_of_another_log_in_the_place_of_one_is_found(place: int, line: bytes) -> None:
    assert not verified([*LINES[:place], line, *LINES[place + 1 :]], anchor=ANCHOR).intact


@settings(deadline=None)
@given(st.integers(0, LENGTH - 1), st.data())
def test_a_line_cut_in_the_middle_of_the_log_is_found(line: int, data: st.DataObject) -> None:
    kept = data.draw(st.integers(0, len(LINES[line]) - 1))
    assert not verified([*LINES[:line], LINES[line][:kept], *LINES[line + 1 :]], anchor=ANCHOR).intact


@given(st.integers(0, LENGTH - 1))
def test_a_cut_off_tail_is_found_by_the_anchor_and_by_nothing_else(kept: int) -> None:
    assert verified(LINES[:kept]).intact
    assert codes(verified(LINES[:kept], anchor=ANCHOR)) == [(0, "cut-off")]


def test_a_log_written_anew_with_the_right_key_is_found_by_the_anchor() -> None:
    assert verified(FOREIGN[:LENGTH]).intact
    assert codes(verified(FOREIGN[:LENGTH], anchor=ANCHOR)) == [(0, "anchor")]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([LINES[0], LINES[1].replace(b'"agent"', b'"other"'), *LINES[2:]], [(2, "changed"), (3, "chain")]),
        ([LINES[0], *LINES[2:]], [(2, "order")]),
        ([LINES[0], *LINES[5:]], [(2, "order")]),
        (LINES[1:], [(1, "order")]),
        ([LINES[0], LINES[0], *LINES[1:]], [(2, "order")]),
        ([LINES[0], LINES[2], LINES[1], *LINES[3:]], [(2, "order"), (3, "order"), (4, "order")]),
        ([LINES[0], b"junk\n", *LINES[2:]], [(2, "unreadable"), (3, "chain")]),
        ([LINES[0], b"\n", *LINES[1:]], [(2, "unreadable"), (3, "order")]),
        ([*LINES, LINES[0][:50]], [(LENGTH + 1, "torn")]),
        ([*LINES[:-1], LINES[-1].replace(b" ", b"").replace(b'"details"', b' "details"')], [(LENGTH, "unreadable")]),
    ],
)
def test_problems_are_named(lines: list[bytes], expected: list[tuple[int, str]]) -> None:
    assert codes(verified(lines)) == expected


def test_the_missing_entries_are_named() -> None:
    assert verified([LINES[0], *LINES[2:]]).problems[0].sentence == "Entry 2 is missing."
    assert verified([LINES[0], *LINES[5:]]).problems[0].sentence == "Entries 2 to 5 are missing."


def test_a_signature_has_one_spelling() -> None:
    signature = Entry.parse(LINES[-1][:-1]).signature.encode()
    for spelling in [signature.upper(), signature[:2] + b" " + signature[2:]]:
        assert codes(verified([*LINES[:-1], LINES[-1].replace(signature, spelling)])) == [(LENGTH, "changed")]


def test_another_key_is_named() -> None:
    assert codes(verified(LINES, key=OTHER)) == [(line, "wrong-key") for line in range(1, LENGTH + 1)]


def test_the_name_of_a_key_proves_nothing() -> None:
    renamed = [line.replace(OTHER.public.key_id.encode(), KEY.public.key_id.encode()) for line in FOREIGN[LENGTH:]]
    assert {problem.code for problem in verified(renamed).problems} == {"changed", "chain"}


def test_hostile_files_end(tmp_path: Path) -> None:
    for content in [b"\n" * 1000, b"[" * 100_000, b"\0" * 100_000, b'{"a":1e999}\n', b'{"sequence":1' + b"0" * 5000 + b"}\n", b"\xff\n"]:
        (tmp_path / "log").write_bytes(content)
        result = verify(tmp_path / "log", KEY.public)
        assert not result.intact
        assert len(result.problems) <= MOST_PROBLEMS
    (tmp_path / "log").write_bytes(b"\n" * 1000)
    assert verify(tmp_path / "log", KEY.public).found == 1000


def test_keys_change_only_where_the_old_one_handed_over(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = AuditLog(path, KEY, SetClock())
    log.append(Kind.AGENT_STARTED, actor="agent")
    log.rotate(OTHER, actor="root")
    log.append(Kind.AGENT_STARTED, actor="agent")
    assert verify(path, [KEY.public, OTHER.public]).intact
    assert codes(verify(path, KEY.public)) == [(2, "wrong-key"), (3, "wrong-key")]
    third = SigningKey.generate()
    assert codes(verify(path, [KEY.public, third.public])) == [(2, "wrong-key"), (3, "wrong-key")]
    assert codes(verify(path, [OTHER.public]))[0] == (1, "wrong-key")


def test_without_a_file_or_a_key(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        verify(tmp_path / "log", KEY.public)
    (tmp_path / "log").touch()
    with pytest.raises(BadInput):
        verify(tmp_path / "log", [])
