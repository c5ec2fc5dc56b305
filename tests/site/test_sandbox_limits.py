"""A worker that takes too much is stopped, and it ends with its agent."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import pytest

from aimer2.site.sandbox.kernel import architecture

pytestmark = pytest.mark.skipif(architecture() is None, reason="needs Linux on x86_64 or aarch64")

HEAD = """
import errno, os, resource, signal, subprocess, sys, threading, time
from aimer2.site.sandbox import Confinement, confine, die_with_parent, python_trees

def attempt(action, *arguments):
    try:
        action(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "allowed"
"""


def child(body: str, confinement: str) -> subprocess.CompletedProcess[str]:
    source = f"{HEAD}\nenforced = confine(Confinement(read=python_trees(), {confinement}))\n{body}"
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False, timeout=30)


@pytest.mark.parametrize("hog", ["bytearray(400 << 20)", "__import__('numpy').zeros(1 << 27)"])
def test_too_much_memory_is_a_clean_error(hog: str) -> None:
    body = f"try:\n    {hog}\nexcept MemoryError:\n    print('refused', enforced.memory_bytes)"
    assert child(body, "memory_bytes=256 << 20").stdout == f"refused {256 << 20}\n"
    assert child(body, "").stdout == ""


def test_too_much_processor_time_ends_the_worker() -> None:
    assert child("while True: pass", "cpu_seconds=1").returncode == -signal.SIGXCPU


def test_files_and_descriptors_are_limited_and_no_core_is_dumped() -> None:
    body = """
memory = os.memfd_create("update")
descriptors = []
def open_many():
    while True:
        descriptors.append(os.dup(0))
core = resource.getrlimit(resource.RLIMIT_CORE)
print(attempt(os.ftruncate, memory, 1 << 20), attempt(os.ftruncate, memory, (1 << 20) + 1), attempt(open_many), core)
"""
    done = child(body, "file_bytes=1 << 20, open_files=20")
    assert done.stdout == "allowed EFBIG EMFILE (0, 0)\n", done.stderr


def test_one_process_means_threads_but_no_child() -> None:
    body = """
thread = threading.Thread(target=print, args=("thread",))
thread.start(); thread.join()
print(attempt(os.fork), attempt(subprocess.run, ["/bin/true"]), enforced.processes)
"""
    done = child(body, "processes=1")
    assert done.stdout == "thread\nEPERM EPERM 1\n", done.stderr


WORKER = f"""{HEAD}
die_with_parent(int(sys.argv[1]))
confine(Confinement(read=python_trees(), CONFINEMENT))
print("ready", flush=True)
threading.Event().wait()
"""
AGENT = """
import os, subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())], stdin=subprocess.DEVNULL)
print(worker.pid, flush=True)
worker.wait()
"""


AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can hand over to another user")


# The kernel forgets the wish to die with the parent when the user changes.
@pytest.mark.parametrize("confinement", ["", "namespaces=True", pytest.param("uid=65534", marks=AS_ROOT)])
def test_a_killed_agent_takes_its_worker_along(confinement: str) -> None:
    source = WORKER.replace("CONFINEMENT", confinement)
    agent = subprocess.Popen([sys.executable, "-c", AGENT, source], stdout=subprocess.PIPE, text=True)
    assert agent.stdout is not None
    with agent.stdout as said:
        worker = int(said.readline())
        assert said.readline() == "ready\n"
        os.kill(worker, 0)
        agent.kill()
        agent.wait()
        # The worker holds the other end of this pipe: its end is the pipe's end.
        ended, _, _ = select.select([said], [], [], 10)
        if not ended:
            os.kill(worker, signal.SIGKILL)
        assert ended
        assert said.read() == ""


def test_a_worker_whose_agent_died_before_it_could_ask_ends_at_once() -> None:
    source = f"{HEAD}\ndie_with_parent(1 << 30)\nprint('alive')"
    orphan = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False, timeout=30)
    assert (orphan.returncode, orphan.stdout) == (-signal.SIGKILL, "")
