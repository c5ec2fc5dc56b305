from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import aimer2
from aimer2.audit.entries import LONGEST_LINE, NO_ENTRY, Entry, Head
from aimer2.audit.kinds import Kind
from aimer2.audit.log import EMPTY, AuditLog
from aimer2.audit.verify import verify
from aimer2.core.clock import SystemClock
from aimer2.core.errors import BadInput, Conflict, OutOfResources, Tampered, TooLarge
from aimer2.identity.keys import SigningKey

KEY = SigningKey.generate()


class SetClock:
    def __init__(self, moment: float = 1_800_000_000.0) -> None:
        self.moment = moment

    def now(self) -> float:
        return self.moment

    def monotonic(self) -> float:
        return self.moment


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


def opened(path: Path, key: SigningKey = KEY) -> AuditLog:
    return AuditLog(path, key, SetClock())


def appender(path: Path, key: Path, name: str, count: int) -> subprocess.Popen[bytes]:
    """A process that appends ``count`` entries and names each on its output once it is recorded."""
    program = (
        "import sys; from pathlib import Path\n"
        "from aimer2.audit.kinds import Kind; from aimer2.audit.log import AuditLog\n"
        "from aimer2.core.clock import SystemClock; from aimer2.identity.keys import SigningKey\n"
        "log = AuditLog(Path(sys.argv[1]), SigningKey.load(Path(sys.argv[2])), SystemClock())\n"
        "for number in range(int(sys.argv[4])):\n"
        "    log.append(Kind.TASK_FINISHED, actor=sys.argv[3], details={'number': number, 'filling': 'x' * 3000})\n"
        "    print(number, flush=True)\n"
    )
    room = {**os.environ, "PYTHONPATH": str(Path(aimer2.__file__).parent.parent)}
    arguments = [sys.executable, "-c", program, str(path), str(key), name, str(count)]
    return subprocess.Popen(arguments, env=room, stdout=subprocess.PIPE)


def test_the_bytes_of_an_entry_are_the_documented_ones(path: Path) -> None:
    log = opened(path)
    log.append(Kind.SITE_CREATED, actor="root")
    log.append(Kind.STUDY_APPROVED, actor="Dr. Müller", study="ab12", details={"until": "2027-01-01", "budget": 0.5, "sets": ["a"]})
    first, second = path.read_bytes().splitlines()
    document = json.loads(second)
    signature = bytes.fromhex(document.pop("signature"))
    assert document == {
        "sequence": 2,
        "time": "2027-01-15T08:00:00Z",
        "kind": "study-approved",
        "actor": "Dr. Müller",
        "study": "ab12",
        "details": {"until": "2027-01-01", "budget": 0.5, "sets": ["a"]},
        "previous": hashlib.sha256(first).hexdigest(),
        "key": KEY.public.key_id,
    }
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    KEY.public.verify(signature, b"aimer2-audit-1\n" + canonical)
    assert json.loads(first)["previous"] == NO_ENTRY
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_head_is_known_with_and_without_entries(path: Path) -> None:
    log = opened(path)
    assert log.head() == EMPTY
    assert not path.exists()
    log.append(Kind.AGENT_STARTED, actor="agent")
    assert log.head() == Head(1, hashlib.sha256(path.read_bytes()[:-1]).hexdigest())


def test_three_processes_append_at_once_and_the_chain_is_whole(tmp_path: Path, path: Path) -> None:
    KEY.save(tmp_path / "key")
    processes = [appender(path, tmp_path / "key", name, 60) for name in ("agent", "cli", "console")]
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    result = verify(path, KEY.public)
    assert result.intact
    assert result.entries == 180
    for name in ("agent", "cli", "console"):
        assert [entry.details["number"] for entry in opened(path).read(actor=name)] == list(range(60))


def test_two_logs_and_four_threads_in_one_process(path: Path) -> None:
    logs = [opened(path), opened(path)]

    def work(log: AuditLog) -> None:
        for _ in range(25):
            log.append(Kind.TASK_FINISHED, actor="agent")

    threads = [threading.Thread(target=work, args=(logs[number % 2],)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verify(path, KEY.public).intact
    assert logs[0].head().sequence == 100


@pytest.mark.parametrize("confirmed", [3, 20, 50])
def test_a_killed_process_leaves_a_log_that_goes_on(tmp_path: Path, path: Path, confirmed: int) -> None:
    KEY.save(tmp_path / "key")
    process = appender(path, tmp_path / "key", "agent", 10**6)
    assert process.stdout is not None
    for _ in range(confirmed):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    rest = process.communicate()[0].splitlines()
    opened(path).append(Kind.AGENT_STARTED, actor="agent")
    assert verify(path, KEY.public).intact
    recorded = [entry.details["number"] for entry in opened(path).read(kinds={Kind.TASK_FINISHED})]
    assert recorded[: confirmed + len(rest)] == list(range(confirmed + len(rest)))


def cut(line: bytes) -> Iterator[bytes]:
    yield from (line[:1], line[: len(line) // 2], line[:-1], b"\0" * len(line), line[:40] + b"\0" * 80 + line[120:])


@pytest.mark.parametrize("case", range(5))
@pytest.mark.parametrize("before", [0, 1, 5])
def test_a_torn_entry_is_set_aside_and_recorded(path: Path, case: int, before: int) -> None:
    log = opened(path)
    for _ in range(before):
        log.append(Kind.TASK_FINISHED, actor="agent")
    good = path.read_bytes() if before else b""
    log.append(Kind.UPDATE_SENT, actor="agent")
    torn = list(cut(path.read_bytes()[len(good) :]))[case]
    path.write_bytes(good + torn)
    assert [problem.line for problem in verify(path, KEY.public).problems] == [before + 1]
    if not torn.endswith(b"\n"):
        assert [problem.code for problem in verify(path, KEY.public).problems] == ["torn"]
        assert len(list(opened(path).read())) == before

    again = opened(path)
    entry = again.append(Kind.AGENT_STARTED, actor="agent")
    assert entry.sequence == before + 2
    assert path.read_bytes().startswith(good)
    assert (path.parent / "audit.log.torn-1").read_bytes() == torn
    note = next(iter(again.read(kinds={"torn-entry-set-aside"})))
    assert note.details == {"file": "audit.log.torn-1", "bytes": len(torn), "sha256": hashlib.sha256(torn).hexdigest()}
    assert verify(path, KEY.public).intact


def test_a_running_process_sets_aside_what_another_left_torn(path: Path) -> None:
    log = opened(path)
    log.append(Kind.AGENT_STARTED, actor="agent")
    for number in (1, 2):
        with path.open("ab") as file:
            file.write(b'{"actor":')
        log.append(Kind.TASK_FINISHED, actor="agent")
        assert (path.parent / f"audit.log.torn-{number}").read_bytes() == b'{"actor":'
    assert verify(path, KEY.public).intact


def test_it_refuses_to_go_on_after_a_changed_last_entry(path: Path) -> None:
    log = opened(path)
    log.append(Kind.STUDY_REFUSED, actor="Dr. Weber")
    good = path.read_bytes()
    for changed in [good.replace(b"Weber", b"Meier"), good.replace(b'"actor"', b'"actor" '), b"nonsense\n", good + b"\n"]:
        path.write_bytes(changed)
        with pytest.raises(Tampered):
            opened(path).append(Kind.AGENT_STARTED, actor="agent")
        assert path.read_bytes() == changed


def test_it_notices_while_in_use_that_the_file_was_shortened_or_replaced(path: Path) -> None:
    log = opened(path)
    log.append(Kind.STUDY_APPROVED, actor="a")
    shorter = path.read_bytes()
    log.append(Kind.STUDY_APPROVED, actor="b")
    whole = path.read_bytes()
    path.write_bytes(shorter)
    with pytest.raises(Tampered):
        log.append(Kind.STUDY_APPROVED, actor="c")
    other = path.with_name("other")
    other.write_bytes(whole)
    other.rename(path)
    with pytest.raises(Tampered):
        log.append(Kind.STUDY_APPROVED, actor="c")


def test_another_key_does_not_go_on_with_the_log(path: Path) -> None:
    opened(path).append(Kind.SITE_CREATED, actor="root")
    with pytest.raises(Conflict):
        opened(path, SigningKey.generate()).append(Kind.AGENT_STARTED, actor="agent")


def test_after_a_rotation_only_the_new_key_goes_on(path: Path) -> None:
    new = SigningKey.generate()
    log, other_process = opened(path), opened(path)
    other_process.append(Kind.AGENT_STARTED, actor="agent")
    log.rotate(new, actor="root")
    with pytest.raises(Conflict):
        other_process.append(Kind.TASK_FINISHED, actor="agent")
    log.append(Kind.TASK_FINISHED, actor="agent")
    with pytest.raises(Conflict):
        opened(path).append(Kind.TASK_FINISHED, actor="agent")
    opened(path, new).append(Kind.TASK_FINISHED, actor="agent")
    assert verify(path, [KEY.public, new.public]).intact


def test_a_full_disk_records_nothing_and_spoils_nothing(path: Path) -> None:
    log = opened(path)
    log.append(Kind.AGENT_STARTED, actor="agent")
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for room in (0, 100):
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + room, limits[1]))
            with pytest.raises(OutOfResources):
                log.append(Kind.TASK_FINISHED, actor="agent")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert log.append(Kind.TASK_FINISHED, actor="agent").sequence == 2
    assert verify(path, KEY.public).intact


@pytest.mark.parametrize("details", [{"a": float("nan")}, {"a": b"x"}, {"a": {1}}, {1: "a", "b": 2}, {"a": "\ud800"}, {"a": object()}])
def test_details_are_plain_json(path: Path, details: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        opened(path).append(Kind.DATASET_ADDED, actor="root", details=details)  # type: ignore[arg-type]
    assert path.read_bytes() == b""


def test_details_are_small_and_the_largest_entry_is_still_a_tail(path: Path) -> None:
    log = opened(path)
    log.append(Kind.DATASET_ADDED, actor="root", details={"a": ""})
    empty = len(path.read_bytes()) - 1
    log.append(Kind.DATASET_ADDED, actor="root", details={"a": "x" * (LONGEST_LINE - empty)})
    with pytest.raises(TooLarge):
        log.append(Kind.DATASET_ADDED, actor="root", details={"a": "x" * (LONGEST_LINE - empty + 1)})
    opened(path).append(Kind.DATASET_ADDED, actor="root", details={"line": "\n\u2028\r", "quote": '"\\'})
    assert verify(path, KEY.public).intact
    assert opened(path).head().sequence == 3


def test_reading_by_kind_study_actor_and_time(path: Path) -> None:
    clock = SetClock()
    log = AuditLog(path, KEY, clock)
    for number, (kind, study) in enumerate([(Kind.STUDY_OFFERED, "a"), (Kind.STUDY_APPROVED, "a"), (Kind.STUDY_OFFERED, "b")]):
        clock.moment = 1_800_000_000.25 + number
        log.append(kind, actor=f"person {number}", study=study)

    def numbers(entries: Iterator[Entry]) -> list[int]:
        return [entry.sequence for entry in entries]

    assert numbers(log.read()) == [1, 2, 3]
    assert numbers(log.read(kinds={Kind.STUDY_OFFERED})) == [1, 3]
    assert numbers(log.read(kinds=())) == []
    assert numbers(log.read(study="a")) == [1, 2]
    assert numbers(log.read(actor="person 1")) == [2]
    assert numbers(log.read(since=1_800_000_001.25)) == [2, 3]
    assert numbers(log.read(until=1_800_000_001.25)) == [1]


def test_reading_stops_loudly_at_what_is_no_entry(path: Path) -> None:
    log = opened(path)
    log.append(Kind.AGENT_STARTED, actor="agent")
    good = path.read_bytes()
    for junk in [b"junk\n", b"x" * (LONGEST_LINE + 5) + b"\n"]:
        path.write_bytes(good + junk + good)
        with pytest.raises(Tampered):
            list(log.read())


def test_an_export_is_the_same_bytes_and_never_overwrites(path: Path, tmp_path: Path) -> None:
    log = opened(path)
    log.append(Kind.AGENT_STARTED, actor="agent")
    copy = tmp_path / "copy"
    assert log.export(copy) == log.head()
    assert copy.read_bytes() == path.read_bytes()
    with pytest.raises(Conflict):
        log.export(copy)


def test_an_append_is_quick(path: Path) -> None:
    log = AuditLog(path, KEY, SystemClock())
    started = time.perf_counter()
    for _ in range(100):
        log.append(Kind.TASK_FINISHED, actor="agent", study="ab" * 32, details={"round": 3, "seconds": 1.5})
    assert (time.perf_counter() - started) / 100 < 0.1


def test_every_kind_has_a_name_and_a_sentence() -> None:
    for kind in Kind:
        assert kind.value == kind.name.lower().replace("_", "-") or kind is Kind.TORN_ENTRY
        assert kind.sentence.endswith(".")
        assert Kind(kind.value) is kind
