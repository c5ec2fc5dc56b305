"""A folder that several processes share, uploads that break off, disks that are full."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from aimer2.blobs.folder import RECENT, SMALL_BYTES, STALE_SECONDS, FolderStore
from aimer2.core.errors import BadInput, Conflict, NotFound, Tampered
from aimer2.core.task import BlobRef

DATA = hashlib.sha256(b"seed").digest() * 10_000
REF = BlobRef(sha256=hashlib.sha256(DATA).hexdigest(), size=len(DATA))


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)


def files(store: FolderStore) -> list[str]:
    return sorted(str(path.relative_to(store.folder)) for path in store.folder.rglob("*") if path.is_file() and "sqlite" not in path.name)


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    program = "import sys\nfrom pathlib import Path\nfrom aimer2.blobs.folder import *\n" + textwrap.dedent(code)
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize("name", ["", "../x", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_only_digests_are_names(store: FolderStore, name: str) -> None:
    with pytest.raises(BadInput):
        store.path(name)
    with pytest.raises(BadInput):
        store.find(name)


def test_small_blobs_are_rows_and_large_ones_files(store: FolderStore) -> None:
    small, large = store.put(b"x" * SMALL_BYTES, b"y" * (SMALL_BYTES + 1))
    assert files(store) == [f"{large.sha256[:2]}/{large.sha256}"]
    assert store.open(small).path is None
    assert bytes(store.open(large).view()) == b"y" * (SMALL_BYTES + 1)


def test_an_upload_goes_on_after_the_process_has_died(store: FolderStore) -> None:
    code = "p = FolderStore(Path(sys.argv[1])).partial(BlobRef(sha256=sys.argv[2], size=int(sys.argv[3])))\n"
    code += "p.write(sys.stdin.buffer.read(1001))\nprint(p.offset, flush=True)\nsys.stdin.read()"
    program = "import sys\nfrom pathlib import Path\nfrom aimer2.blobs.folder import *\n" + code
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(store.folder), REF.sha256, str(REF.size)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(DATA[:1001])
    process.stdin.flush()
    assert process.stdout.readline() == b"1001\n"
    process.kill()
    process.wait()
    again = store.partial(REF)
    assert again.offset == 1001
    assert REF not in store
    again.write(DATA[1001:5000])
    del again
    last = FolderStore(store.folder).partial(REF)
    assert last.offset == 5000
    last.write(DATA[5000:])
    assert last.finish() == REF
    assert bytes(store.open(REF).view()) == DATA
    assert files(store) == [f"{REF.sha256[:2]}/{REF.sha256}"]


def test_a_small_blob_that_was_received_in_parts_can_be_deleted(store: FolderStore) -> None:
    ref = BlobRef(sha256=hashlib.sha256(b"small").hexdigest(), size=5)
    partial = store.partial(ref)
    partial.write(b"small")
    partial.finish()
    assert bytes(store.open(ref).view()) == b"small"
    store.delete(ref)
    assert ref not in store


def test_a_wrong_size_does_not_save_a_blob_from_being_deleted(store: FolderStore) -> None:
    refs = store.put(b"x", DATA)
    store.delete(*(BlobRef(sha256=ref.sha256, size=size) for ref, size in zip(refs, (10**6, 1), strict=True)))
    assert not [ref for ref in refs if ref in store]


def test_nothing_of_a_deleted_small_blob_stays_in_the_file_or_its_log(store: FolderStore) -> None:
    kept, *gone = store.put(b"kept" * 500, *(b"patient 4711," * count for count in (1, 40, 400, 4000)))
    store.delete(*gone)
    store.settle()
    content = b"".join(file.read_bytes() for file in sorted(store.folder.glob("small.sqlite*")))
    assert b"patient 4711" not in content and b"kept" * 50 in content and kept in store


def test_all_but_what_is_named_goes(store: FolderStore) -> None:
    kept = store.put(b"small and kept", b"large and kept" * SMALL_BYTES)
    gone = store.put(b"small and gone", b"large and gone" * SMALL_BYTES)
    store.retain([ref.sha256 for ref in kept])
    assert [ref in store for ref in (*kept, *gone)] == [True, True, False, False]


def test_a_blob_stored_a_moment_ago_is_what_its_row_says(store: FolderStore) -> None:
    first, *others = store.put(*(b"%d" % number for number in range(RECENT + 1)))
    assert store.open(first).view() == b"0"
    assert store.open(BlobRef(sha256=others[-1].sha256, size=10**6)).ref == others[-1]
    store.delete(others[-1])
    with pytest.raises(NotFound):
        store.open(others[-1])
    FolderStore(store.folder).delete(others[0])
    assert others[0] not in store


def test_an_unfinished_upload_is_not_a_blob(store: FolderStore) -> None:
    partial = store.partial(REF)
    partial.write(DATA[:-1])
    with pytest.raises(Conflict, match=f"{REF.size - 1} of {REF.size}"):
        partial.finish()
    assert REF not in store
    partial.write(DATA[-1:])
    assert partial.finish() in store


def test_more_bytes_than_announced_are_refused_and_the_rest_kept(store: FolderStore) -> None:
    partial = store.partial(REF)
    partial.write(DATA[:-5])
    with pytest.raises(Conflict):
        partial.write(DATA[-6:])
    assert partial.offset == REF.size - 5
    partial.write(DATA[-5:])
    partial.finish()
    assert bytes(store.open(REF).view()) == DATA


@pytest.mark.parametrize("interrupted", [False, True])
def test_tampered_bytes_are_removed(store: FolderStore, interrupted: bool) -> None:
    partial = store.partial(REF)
    partial.write(b"!" + DATA[1:9000])
    if interrupted:
        partial.close()
        partial = store.partial(REF)
    partial.write(DATA[9000:])
    with pytest.raises(Tampered):
        partial.finish()
    assert files(store) == []
    assert store.partial(REF).offset == 0


@pytest.mark.parametrize("damage", [b"", DATA[:-1], DATA[:-1] + b"!"], ids=["empty", "cut", "changed"])
def test_after_a_start_of_the_machine_a_file_counts_only_with_its_digest(tmp_path: Path, damage: bytes) -> None:
    other = DATA + b"other"
    ref, whole = FolderStore(tmp_path).put(DATA, other)
    (tmp_path / ref.sha256[:2] / ref.sha256).write_bytes(damage)
    assert ref in FolderStore(tmp_path), "the machine has not gone down since"
    time.sleep(0.02)
    again = FolderStore(tmp_path, started=time.time())
    time.sleep(0.02)
    assert ref not in again
    with pytest.raises(NotFound):
        again.open(ref)
    assert bytes(again.open(whole).view()) == other
    again.path(whole.sha256).write_bytes(b"!" * len(other))
    assert whole in again, "hashed once, not each time"
    again.put(DATA)
    assert bytes(again.open(ref).view()) == DATA
    assert len(files(again)) == 2


def test_what_never_went_on_is_swept_and_nothing_else(store: FolderStore) -> None:
    ref = store.put(DATA + b"whole")[0]
    store.partial(REF).write(DATA[:1000])
    writer = store.create()
    writer.write(DATA)
    now = time.time()
    store.sweep(now + STALE_SECONDS - 60)
    assert store.partial(REF).offset == 1000 and len(files(store)) == 3
    store.sweep(now + STALE_SECONDS + 60)
    assert store.partial(REF).offset == 0
    store.partial(REF).forget()
    assert files(store) == [f"{ref.sha256[:2]}/{ref.sha256}"]


@pytest.mark.parametrize("count", [1, 3, 3000])
def test_pieces_are_written_in_their_order(store: FolderStore, count: int) -> None:
    partial = store.partial(REF)
    step = -(-len(DATA) // count)
    partial.write(DATA[:7], b"")
    partial.write(*(memoryview(DATA)[max(7, start) : start + step] for start in range(0, len(DATA), step)))
    assert bytes(store.open(partial.finish()).view()) == DATA


def test_an_upload_announced_too_large_does_not_bar_the_right_one(store: FolderStore) -> None:
    wrong = store.partial(BlobRef(sha256=REF.sha256, size=REF.size + 10))
    wrong.write(DATA + b"x")
    wrong.close()
    right = store.partial(REF)
    assert right.offset == 0
    right.write(DATA)
    assert right.finish() in store


def test_who_has_an_upload_open_cannot_reach_the_blob_that_another_finished(store: FolderStore) -> None:
    first = store.partial(REF)
    with pytest.raises(Conflict):
        store.partial(REF)
    first.write(DATA)
    first.finish()
    late = store.partial(REF)
    late.write(b"!" * 100)
    late.forget()
    assert bytes(store.open(REF).view()) == DATA


def test_an_upload_moved_to_its_name_while_it_was_being_opened_is_not_written_to(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    first, opened = store.partial(REF), os.open
    first.write(DATA)

    def open_then_finish(*arguments: object, **more: object) -> int:
        descriptor = opened(*arguments, **more)  # type: ignore[arg-type]
        monkeypatch.undo()
        first.finish()
        return descriptor

    monkeypatch.setattr(os, "open", open_then_finish)
    with pytest.raises(Conflict):
        store.partial(REF)
    assert bytes(store.open(REF).view()) == DATA


def test_two_processes_write_the_same_blobs(store: FolderStore) -> None:
    code = """
        store = FolderStore(Path(sys.argv[1]))
        for size in (10, 100_000) * 20:
            writer = store.create()
            for _ in range(10):
                writer.write(b"x" * (size // 10))
            ref = writer.commit()
            assert bytes(store.open(ref).view()) == b"x" * size
        store.put(*(bytes([number]) for number in range(200)))
    """
    processes = [child(code, store.folder) for _ in range(2)]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    for data in (b"x" * 10, b"x" * 100_000, b"\x07"):
        assert bytes(store.find(hashlib.sha256(data).hexdigest()).view()) == data
    assert len(files(store)) == 1


@pytest.mark.parametrize("size", [1000, 500_000])
def test_a_writer_that_is_killed_leaves_no_blob(store: FolderStore, size: int) -> None:
    code = """
        writer = FolderStore(Path(sys.argv[1])).create()
        writer.write(b"x" * int(sys.argv[2]))
        print("written", flush=True)
        sys.stdin.read()
        writer.commit()
    """
    process = child(code, store.folder, size)
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    sha256 = hashlib.sha256(b"x" * size).hexdigest()
    assert BlobRef(sha256=sha256, size=size) not in store
    with pytest.raises(NotFound):
        store.find(sha256)
    assert all(name.startswith("incoming/") for name in files(store))


LIMITED = """
    import resource
    from aimer2.core.errors import OutOfResources
    from aimer2.core.task import BlobRef
    store = FolderStore(Path(sys.argv[1]))
    store.put(b"before")
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
"""
OPEN_FILES = "import os\nprint(*[os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd') if os.path.lexists(f'/proc/self/fd/{n}')])"


@pytest.mark.parametrize(
    "attempt",
    [
        "writer = store.create()\n    try:\n        [writer.write(b'x' * 100_000) for _ in range(4)]\n    finally:\n        writer.abandon()",
        "store.put(b'x' * 400_000)",
        "[store.put(bytes([n % 256, n // 256]) * 20_000) for n in range(500)]",
    ],
    ids=["writer", "put", "rows"],
)
def test_a_full_disk_is_said_so_and_leaves_nothing_half_done(store: FolderStore, attempt: str) -> None:
    code = f"{textwrap.dedent(LIMITED)}\ntry:\n    {attempt}\nexcept OutOfResources as error:\n    print(error.sentence)\n{OPEN_FILES}"
    process = child(code, store.folder)
    out, err = process.communicate()
    assert out.startswith("The disk is full.\n"), err
    assert "incoming" not in out, "an abandoned file is still open"
    assert files(store) == []
    assert bytes(store.find(hashlib.sha256(b"before").hexdigest()).view()) == b"before"


def test_an_upload_keeps_what_came_before_the_disk_was_full(store: FolderStore) -> None:
    code = f"""{textwrap.dedent(LIMITED)}
data = b'x' * 400_000
partial = store.partial(BlobRef(sha256=hashlib.sha256(data).hexdigest(), size=len(data)))
partial.write(data[:200_000])
try:
    partial.write(data[200_000:])
except OutOfResources:
    print(partial.offset)
"""
    out, err = child(code, store.folder).communicate()
    assert out == "200000\n", err
    data = b"x" * 400_000
    partial = store.partial(BlobRef(sha256=hashlib.sha256(data).hexdigest(), size=len(data)))
    assert 200_000 <= partial.offset <= 300_000
    partial.write(data[partial.offset :])
    assert bytes(store.open(partial.finish()).view()) == data


def test_a_failed_commit_closes_its_file_once(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = store.create()
    writer.write(DATA)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(PermissionError))
    with pytest.raises(PermissionError):
        writer.commit()
    monkeypatch.undo()
    writer.abandon()
    innocent = os.open(store.folder, os.O_RDONLY)
    with contextlib.suppress(OSError):
        writer.abandon()
    os.fstat(innocent)
    os.close(innocent)
    assert files(store) == []
