"""Files that are written over: never under the eyes of a reader, and never longer or shorter than their blob."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aimer2.blobs import spares
from aimer2.blobs.folder import FolderStore
from aimer2.core.errors import OutOfResources
from aimer2.core.task import BlobRef

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says whether somebody has a file open")


def data(name: str, size: int = 3 << 20) -> bytes:
    return (hashlib.sha256(name.encode()).digest() * (size // 32 + 1))[:size]


def ref_of(content: bytes) -> BlobRef:
    return BlobRef(sha256=hashlib.sha256(content).hexdigest(), size=len(content))


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)


def inode(store: FolderStore, ref: BlobRef) -> int:
    return store.path(ref.sha256).stat().st_ino


def written(store: FolderStore, content: bytes) -> BlobRef:
    writer = store.create()
    for start in range(0, len(content), 1 << 20):
        writer.write(content[start : start + (1 << 20)])
    return writer.commit()


def received(store: FolderStore, content: bytes) -> BlobRef:
    partial = store.partial(ref_of(content))
    for start in range(partial.offset, len(content), 1 << 20):
        partial.write(content[start : start + (1 << 20)])
    return partial.finish()


@pytest.mark.parametrize("make", [written, received])
@pytest.mark.parametrize("size", [2 << 20, 3 << 20, (4 << 20) + 7])
def test_the_next_blob_comes_into_the_file_of_a_deleted_one(store: FolderStore, make: object, size: int) -> None:
    old = written(store, data("old"))
    number = inode(store, old)
    store.delete(old)
    assert old not in store
    new = make(store, data("new", size))  # type: ignore[operator]
    assert inode(store, new) == number
    assert bytes(store.open(new).view()) == data("new", size)
    assert list((store.folder / "incoming").iterdir()) == []


@pytest.mark.parametrize("make", [written, received])
@pytest.mark.parametrize("how", ["mapped", "open", "linked", "open elsewhere"])
def test_a_reader_of_a_deleted_blob_never_sees_another_one(store: FolderStore, make: object, how: str, tmp_path: Path) -> None:
    old = written(store, data("old"))
    path = store.path(old.sha256)
    held: object = None
    if how == "mapped":
        held = store.open(old).view()
    elif how == "open":
        held = path.open("rb")
    elif how == "linked":
        os.link(path, tmp_path / "backup")
    else:
        code = "import sys; file = open(sys.argv[1], 'rb'); print(flush=True); sys.stdin.read(); sys.stdout.buffer.write(file.read())"
        held = subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert held.stdout is not None
        held.stdout.readline()
    store.delete(old)
    new = make(store, data("new"))  # type: ignore[operator]
    assert bytes(store.open(new).view()) == data("new")
    if how == "mapped":
        seen = bytes(held)  # type: ignore[call-overload]
    elif how == "open":
        with held as file:  # type: ignore[attr-defined]
            seen = file.read()
    elif how == "linked":
        seen = (tmp_path / "backup").read_bytes()
    else:
        seen = held.communicate()[0]  # type: ignore[attr-defined]
    assert seen == data("old")


def test_a_file_is_spare_again_once_its_reader_is_gone(store: FolderStore) -> None:
    old = written(store, data("old"))
    number, view = inode(store, old), store.open(old).view()
    store.delete(old)
    first = written(store, data("first"))
    assert inode(store, first) != number
    assert isinstance(view.obj, mmap.mmap)
    del view
    assert inode(store, written(store, data("second"))) == number


@pytest.mark.parametrize("came", [0, 1 << 20, (2 << 20) + 5])
def test_an_upload_into_a_spare_file_goes_on_after_a_kill(store: FolderStore, came: int) -> None:
    store.delete(written(store, data("old", 5 << 20)))
    content = data("new")
    code = """if True:
        import os, signal, sys
        from pathlib import Path
        from aimer2.blobs.folder import FolderStore
        from aimer2.core.task import BlobRef
        store = FolderStore(Path(sys.argv[1]))
        store.spares.keep(Path(sys.argv[4]))
        partial = store.partial(BlobRef(sha256=sys.argv[2], size=int(sys.argv[3])))
        partial.write(sys.stdin.buffer.read())
        os.kill(os.getpid(), signal.SIGKILL)
    """
    other = store.folder / "other"
    other.write_bytes(data("older", 4 << 20))
    ref = ref_of(content)
    subprocess.run([sys.executable, "-c", code, str(store.folder), ref.sha256, str(ref.size), str(other)], input=content[:came], check=False)
    assert (store.folder / "incoming" / f"{ref.sha256}.partial").stat().st_size > ref.size, "the upload did not come into the spare file"
    assert store.came(ref.sha256) == came
    assert ref not in store
    again = FolderStore(store.folder).partial(ref)
    assert again.offset == came
    again.write(content[came:])
    again.finish()
    assert store.path(ref.sha256).read_bytes() == content


def test_an_upload_announced_with_another_size_begins_anew(store: FolderStore) -> None:
    store.delete(written(store, data("old")))
    content = data("new")
    wrong = store.partial(BlobRef(sha256=ref_of(content).sha256, size=len(content) + 1))
    wrong.write(content)
    wrong.close()
    assert store.partial(ref_of(content)).offset == 0
    assert store.path(received(store, content).sha256).read_bytes() == content


def test_a_study_writes_over_what_another_store_has_left(tmp_path: Path) -> None:
    staging = FolderStore(tmp_path / "staging")
    study = FolderStore(tmp_path / "study", staging.spares)
    old = written(study, data("old"))
    number = inode(study, old)
    study.delete(old)
    assert inode(staging, received(staging, data("new"))) == number


def test_what_is_kept_has_a_limit_and_ends_with_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spares, "MOST_BYTES", 7 << 20)
    store = FolderStore(tmp_path)
    store.delete(*(written(store, data(str(number))) for number in range(4)))
    assert len(list((tmp_path / "incoming").iterdir())) == 2
    FolderStore(tmp_path)
    assert list((tmp_path / "incoming").iterdir()) == []
    assert bytes(store.open(written(store, data("new"))).view()) == data("new")


def test_a_full_disk_gets_the_spare_files_back(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.delete(written(store, data("old")))
    store.delete(written(store, data("small", 2 << 20)), written(store, data("large", 4 << 20)))
    monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    writer = store.create()
    with pytest.raises(OutOfResources):
        writer.write(data("new"))
    writer.abandon()
    assert list((store.folder / "incoming").iterdir()) == []
