"""Real processes that confine themselves and then try to get out."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from aimer2.site.sandbox import Confinement, Enforced, landlock
from aimer2.site.sandbox.kernel import architecture

pytestmark = pytest.mark.skipif(architecture() is None or landlock.abi() == 0, reason="needs Linux with Landlock on x86_64 or aarch64")

HEAD = """
import ctypes, errno, json, os, signal, socket, subprocess, sys, threading
from dataclasses import asdict
from pathlib import Path
from aimer2.site.sandbox import Confinement, confine, kernel, python_trees, syscalls

def attempt(action, *arguments):
    try:
        action(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "allowed"

def say(**answers):
    print(json.dumps(answers))
"""


def child(body: str, confinement: str | None, *, before: str = "", pass_fds: tuple[int, ...] = ()) -> subprocess.CompletedProcess[str]:
    own = "" if confinement is None else f"enforced = confine(Confinement({confinement}))"
    source = "\n".join((HEAD, before, own, body))
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False, timeout=60, pass_fds=pass_fds)


def answers(body: str, confinement: str | None = "", *, before: str = "", pass_fds: tuple[int, ...] = ()) -> dict[str, Any]:
    done = child(body, confinement, before=before, pass_fds=pass_fds)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


FAMILIES = """
families = dict(unix=(1, 1), unix_datagram=(1, 2), inet=(2, 1), inet_datagram=(2, 2), inet_raw=(2, 3), inet6=(10, 1), netlink=(16, 3),
                packet=(17, 3), bluetooth=(31, 3), alg=(38, 5), vsock=(40, 1), xdp=(44, 3))
say(**{name: attempt(socket.socket, *pair) for name, pair in families.items()})
"""


def test_no_family_of_sockets_can_be_opened() -> None:
    opened = answers(FAMILIES)
    assert set(opened.values()) == {"EACCES"}
    free = answers(FAMILIES, None)
    assert free["inet"] == free["unix"] == "allowed"


def test_a_listening_port_of_the_agent_is_out_of_reach() -> None:
    before = "held = socket.socket()\nport = {port}"
    body = """
libc = ctypes.CDLL(None, use_errno=True)
column = kernel.architecture().column
raw = lambda name, *given: attempt(kernel.syscall, {**syscalls.NETWORK, **syscalls.FORBIDDEN}[name][column], *given)
address = bytes([2, 0, port >> 8, port & 255, 127, 0, 0, 1]) + bytes(8)
where = ctypes.addressof(keep := ctypes.create_string_buffer(address))
say(connect=attempt(held.connect, ("127.0.0.1", port)), raw_connect=raw("connect", held.fileno(), where, 16),
    socket=attempt(socket.create_connection, ("127.0.0.1", port)), raw_socket=raw("socket", 2, 1, 0),
    bind=attempt(held.bind, ("127.0.0.1", 0)), listen=attempt(held.listen),
    io_uring=raw("io_uring_setup", 4, 0), pair=attempt(socket.socketpair, socket.AF_UNIX, socket.SOCK_DGRAM))
"""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        tried = answers(body, before=before.format(port=server.getsockname()[1]))
        with pytest.raises(BlockingIOError):
            server.accept()
    assert tried.pop("io_uring") == "EPERM"
    assert set(tried.values()) == {"EACCES"}


def test_dangerous_calls_are_refused_and_the_filter_is_on() -> None:
    body = """
column = kernel.architecture().column
raw = lambda name, *given: attempt(kernel.syscall, {**syscalls.NUMBERS, **syscalls.FORBIDDEN}[name][column], *given)
status = dict(line.split(":\\t") for line in Path("/proc/self/status").read_text().splitlines() if ":\\t" in line)
say(ptrace=raw("ptrace", 0, 0, 0, 0), unshare=raw("unshare", 0x10000000), clone=raw("clone", 0x10000011, 0, 0, 0, 0),
    mount=raw("mount", 0, 0, 0, 0, 0), keyctl=raw("keyctl", 0, -3, 0), userfaultfd=raw("userfaultfd", 1),
    clone3=raw("clone3", 0, 0), undying=raw("prctl", 1, 0), dumpable=raw("prctl", 4, 1), limits=raw("prlimit64", os.getppid(), 7, 0, 0),
    future=attempt(kernel.syscall, 470), seccomp=status["Seccomp"], privileges=status["NoNewPrivs"], capable=int(status["CapPrm"], 16),
    dumps=kernel.syscall(syscalls.NUMBERS["prctl"][column], 3))
"""
    tried = answers(body, "read=python_trees()")
    assert tried.pop("clone3") == tried.pop("future") == "ENOSYS"
    assert tried.pop("dumps") == 0
    assert (tried.pop("seccomp"), tried.pop("privileges"), tried.pop("capable")) == ("2", "1", 0)
    assert set(tried.values()) == {"EPERM"}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="these doors exist on x86_64 only")
def test_other_doors_into_the_kernel_kill() -> None:
    x32 = child("kernel.syscall(0x40000000 | 39)", "")
    assert x32.returncode == -31  # SIGSYS
    code = r"b'\xb8\x14\x00\x00\x00\xcd\x80\xc3'"  # mov eax, 20 (getpid of i386); int 0x80; ret
    before = f"import mmap\npage = mmap.mmap(-1, 4096, prot=7)\npage.write({code})"
    i386 = child("ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()", "", before=before)
    assert i386.returncode in {-31, -11}  # SIGSEGV where the kernel has no such door


def test_only_the_given_trees_can_be_reached(tmp_path: Path) -> None:
    for name in ("read", "write", "outside"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    (tmp_path / "write" / "link").symlink_to(tmp_path / "outside" / "file")
    (tmp_path / "write" / "program").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "write" / "program").chmod(0o755)
    body = f"""
top = Path({str(tmp_path)!r})
say(read=attempt((top / "read/file").read_text), list=attempt(os.listdir, top / "read"), devnull=attempt(open, "/dev/null", "r+"),
    new=attempt((top / "write/new").write_text, "x"), over=attempt((top / "write/file").write_text, "y"),
    folder=attempt(os.mkdir, top / "write/folder"), remove=attempt(os.unlink, top / "write/new"),
    _write_in_read=attempt((top / "read/file").write_text, "y"), _new_in_read=attempt((top / "read/new").write_text, "y"),
    _remove_in_read=attempt(os.unlink, top / "read/file"), _truncate_in_read=attempt(open, top / "read/file", "w"),
    _truncate_path=attempt(os.truncate, top / "read/file", 0), _mode=attempt(os.chmod, top / "outside/file", 0o777),
    _outside=attempt((top / "outside/file").read_text), _list=attempt(os.listdir, top), _link=attempt((top / "write/link").read_text),
    _magic=attempt(Path("/proc/self/root/etc/passwd").read_text), _passwd=attempt(Path("/etc/passwd").read_text),
    _connections=attempt(Path("/proc/self/net/tcp").read_text), _memory=attempt(open, f"/proc/{{os.getppid()}}/mem", "rb"),
    _hard_link=attempt(os.link, top / "read/file", top / "outside/link"), _move=attempt(os.rename, top / "read/file", top / "write/moved"),
    _execute=attempt(subprocess.run, [str(top / "write/program")]), files=enforced.files)
"""
    tried = answers(body, f"read=(*python_trees(), Path({str(tmp_path / 'read')!r})), write=(Path({str(tmp_path / 'write')!r}),)")
    assert tried.pop("files") == landlock.abi()
    assert {name for name, result in tried.items() if result == "allowed"} == {name for name in tried if not name.startswith("_")}
    assert {tried[name] for name in tried if name.startswith("_")} <= {"EACCES", "EPERM", "EXDEV"}
    assert (tmp_path / "read" / "file").read_text() == "x"


def test_processes_and_threads_started_later_are_confined_too() -> None:
    body = """
shell = lambda command: subprocess.run(["/bin/sh", "-c", command], capture_output=True).returncode
python = [sys.executable, "-c", "import socket; socket.socket()"]
found = []
thread = threading.Thread(target=lambda: found.append([attempt(socket.socket), attempt(open, "/etc/passwd")]))
thread.start(); thread.join()
say(shell=shell("exit 7"), cat=shell("cat /etc/passwd"), python=subprocess.run(python, capture_output=True).stderr.decode(), thread=found[0])
"""
    tried = answers(body, "read=python_trees()")
    assert tried["shell"] == 7
    assert tried["cat"] != 0
    assert "PermissionError" in tried["python"]
    assert tried["thread"] == ["EACCES", "EACCES"]


@pytest.mark.skipif(landlock.abi() < 6, reason="Landlock holds signals back from version 6")
def test_the_agent_can_not_be_signalled() -> None:
    assert answers("say(signal=attempt(os.kill, os.getppid(), 0))") == {"signal": "EPERM"}
    assert answers("say(signal=attempt(os.kill, os.getppid(), 0))", None) == {"signal": "allowed"}


def test_the_socket_to_the_agent_carries_bytes_and_descriptors(tmp_path: Path) -> None:
    snapshot = tmp_path / "outside"
    snapshot.write_text("handed over")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    body = f"""
agent = socket.socket(fileno={theirs.fileno()})
message, descriptors, _, _ = socket.recv_fds(agent, 100, 1)
memory = os.memfd_create("update")
os.write(memory, os.read(descriptors[0], 100).upper())
socket.send_fds(agent, [message[::-1]], [memory])
say(pair=attempt(socket.socketpair))
"""
    with ours, theirs, snapshot.open() as handed:
        socket.send_fds(ours, [b"ping"], [handed.fileno()])
        tried = answers(body, pass_fds=(theirs.fileno(),))
        message, descriptors, _, _ = socket.recv_fds(ours, 100, 1)
    with open(descriptors[0], "rb") as memory:
        memory.seek(0)
        assert (message, memory.read(), tried["pair"]) == (b"gnip", b"HANDED OVER", "allowed")


def test_numpy_computes_within() -> None:
    body = "import numpy as np\nsay(trace=float(np.trace(np.full((200, 200), 2.0) @ np.eye(200))))"
    assert answers(body, "read=python_trees(), memory_bytes=2 << 30") == {"trace": 400.0}


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_torch_computes_and_differentiates_within(tmp_path: Path) -> None:
    body = """
import torch
weights = torch.ones(3, requires_grad=True)
(weights.sum() ** 2).backward()
say(gradient=weights.grad.tolist())
"""
    # No other process: importing torch must not need one.
    tried = answers(body, f"read=python_trees(), write=(Path({str(tmp_path)!r}),), memory_bytes=4 << 30, processes=1")
    assert tried == {"gradient": [6.0, 6.0, 6.0]}


UNPRIVILEGED = "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)"
REACH = """
say(passwd=attempt(open, "/etc/passwd"), cache=attempt(open, "/etc/ld.so.cache"), socket=attempt(socket.socket), **asdict(enforced))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become an ordinary user to try; as one the other tests try it already")
def test_an_ordinary_user_is_confined_just_as_well() -> None:
    tried = answers(REACH, 'read=(Path("/etc/ld.so.cache"),), namespaces=True, processes=500', before=UNPRIVILEGED)
    assert (tried["passwd"], tried["cache"], tried["socket"]) == ("EACCES", "allowed", "EACCES")
    assert (tried["user"], tried["own_user"], tried["files"]) == (65534, False, landlock.abi())
    # A limit on processes counts per user, so it is in force only within a user namespace of its own.
    assert tried["processes"] == (500 if tried["network"] == "seccomp+namespace" else None)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hand over to another user")
def test_another_user_is_put_on_top(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    body = f"say(secret=attempt(open, {str(secret)!r}), back=attempt(os.setuid, 0), groups=os.getgroups(), **asdict(enforced))"
    tried = answers(body, f"read=(Path({str(tmp_path)!r}),), uid=65534, namespaces=True", before="os.setgroups([0, 5])")
    assert (tried["user"], tried["own_user"], tried["groups"]) == (65534, True, [])
    assert (tried["secret"], tried["back"]) == ("EACCES", "EPERM")


def test_a_faulty_confinement_is_refused(tmp_path: Path) -> None:
    (tmp_path / "snapshot").mkdir()
    nested = child("", f"read=(Path({str(tmp_path / 'snapshot')!r}),), write=(Path({str(tmp_path)!r}),)")
    assert "BadInput" in nested.stderr
    assert "NotFound" in child("", f"read=(Path({str(tmp_path / 'missing')!r}),)").stderr
    late = "threading.Thread(target=threading.Event().wait, daemon=True).start()"
    assert "Conflict" in child("", "", before=late).stderr


def test_what_is_not_in_force_is_said() -> None:
    nothing = Enforced(
        network="none",
        files=0,
        memory_bytes=None,
        cpu_seconds=None,
        file_bytes=None,
        open_files=None,
        processes=None,
        user=1000,
        own_user=False,
        no_capabilities=True,
    )
    sentences = nothing.describe()
    assert sentences[0].startswith("Network: OPEN")
    assert sentences[1].startswith("Files: OPEN")
    assert Confinement().namespaces is False
