from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from aimer2.core.errors import AimerError, BadModel, NotAvailable, OutOfResources, Tampered
from aimer2.core.study import Study
from aimer2.core.task import Task
from aimer2.messages.tensors import read_tree, write_tree
from aimer2.site.memory_files import MemoryFile, OpenFile
from aimer2.site.workers import Opening, Spare, Worker, WorkerDied, Workers, of_death

Make = Callable[..., Opening]
ZEROS = {"coefficients": np.zeros(2), "intercept": np.zeros(1)}

HOSTILE = """
import os, socket, sys
from dataclasses import dataclass
import numpy as np
from aimer2.models.linear import Logistic

{attack}

@dataclass(frozen=True)
class Spy:
    inner: Logistic
    def initial(self, rng): return self.inner.initial(rng)
    def predict(self, parameters, features): return self.inner.predict(parameters, features)
    def gradient(self, parameters, features, targets):
        attack(features)
        return self.inner.gradient(parameters, features, targets)

def build(features, classes):
    return Spy(Logistic(features))
"""


def a_task(stage: str = "train") -> dict[str, Any]:
    return Task.model_validate({"id": f"t-{stage}", "study": "0" * 64, "site": "north", "stage": stage, "round_number": 1}).model_dump(mode="json")


def request(stage: str = "train", memory: Sequence[str] = ()) -> tuple[dict[str, Any], list[int]]:
    if stage == "preflight":
        return {"task": a_task(stage), "received": [], "memory": []}, []
    file = MemoryFile()
    write_tree(ZEROS, file)
    return {"task": a_task(stage), "received": ["model"], "memory": list(memory)}, [file.seal()]


async def once(opening: Opening, stage: str = "train") -> tuple[dict[str, Any], dict[str, Any]]:
    worker = await Worker.start(opening)
    try:
        reply, files = await worker.ask(*request(stage))
    finally:
        await worker.end()
    return reply, {name: read_tree(OpenFile(file)) for name, file in zip(reply["sums"], files, strict=False)}


def hostile(make_opening: Make, a_study: Callable[..., Study], attack: str, **settings: Any) -> Opening:
    study = a_study(model={"framework": "numpy", "code": "model.py"})
    return make_opening(study, {"model.py": HOSTILE.format(attack=attack)}, **settings)


def test_a_confined_worker_trains_and_hands_over_the_sums(make_opening: Make, study: Study) -> None:
    reply, sums = asyncio.run(once(make_opening(study)))
    assert set(sums) == {"difference", "weight", "metrics"}
    assert np.abs(sums["difference"]["coefficients"]).max() > 0
    assert next(iter(sums["weight"].values())).reshape(-1)[0] > 30
    assert reply["figures"]


def test_preflight_tells_checks_and_no_sums(make_opening: Make, study: Study) -> None:
    reply, sums = asyncio.run(once(make_opening(study), "preflight"))
    assert reply["checks"] and not sums


@pytest.mark.parametrize(
    "attack",
    [
        "def attack(features): socket.create_connection(('127.0.0.1', 9))",
        "def attack(features): socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).connect('/run/dbus/system_bus_socket')",
        "def attack(features): open('{outside}').read()",
        "def attack(features): open('{outside}', 'w').write('x')",
        "def attack(features): open(os.environ['HOME'] + '/../files/model.py', 'a').write('x')",
        "def attack(features): os.listdir('{site}')",
        "def attack(features): os.kill(os.getppid(), 0) or os.system('true') == 0 or sys.exit('no process')",
    ],
    ids=["network", "sockets of the host", "read outside", "write outside", "change the code", "list the site", "other processes"],
)
def test_code_of_a_study_reaches_nothing_outside(make_opening: Make, a_study: Callable[..., Study], tmp_path: Any, attack: str) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("key")
    with pytest.raises(AimerError) as raised:
        asyncio.run(once(hostile(make_opening, a_study, attack.format(outside=outside, site=tmp_path / "site"))))
    assert raised.value.code in ("bad-model", "internal")
    assert outside.read_text() == "key"


def test_no_value_of_a_patient_is_in_a_failure(make_opening: Make, a_study: Callable[..., Study], marker: float) -> None:
    attack = f"def attack(features): raise ValueError('patient has {marker}')"
    opening = hostile(make_opening, a_study, attack)
    with pytest.raises(AimerError) as raised:
        asyncio.run(once(opening))
    assert str(marker) not in raised.value.sentence + repr(raised.value.args)
    # The person at the site, who may see it, finds it in the log.
    assert str(marker) in (opening.folder / "worker.log").read_text()
    assert (opening.folder / "worker.log").stat().st_mode & 0o077 == 0


def test_a_changed_snapshot_is_not_computed_on(make_opening: Make, study: Study) -> None:
    opening = make_opening(study)
    file = opening.snapshot / "0000.npy"
    file.chmod(0o600)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(Tampered):
        asyncio.run(once(opening))


def test_a_code_error_of_the_study_is_told_as_such(make_opening: Make, a_study: Callable[..., Study]) -> None:
    study = a_study(model={"framework": "numpy", "code": "model.py"})
    with pytest.raises(BadModel):
        asyncio.run(once(make_opening(study, {"model.py": "1/0"})))


def test_a_killed_worker_is_noticed_at_once_and_a_new_one_goes_on(make_opening: Make, study: Study) -> None:
    opening = make_opening(study)

    async def run() -> dict[str, Any]:
        workers = Workers()
        first = await workers.take("s", opening)
        os.kill(first.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied) as died:
            await first.ask(*request())
        assert died.value.signal == signal.SIGKILL
        await workers.end("s")
        second = await workers.take("s", opening)
        assert second.pid != first.pid
        reply, files = await second.ask(*request())
        for file in files:
            os.close(file)
        # Killed while it waits for the next task: that task begins with a worker that lives.
        os.kill(second.pid, signal.SIGKILL)
        await second._process.wait()
        assert not (await workers.take("s", opening)).ended
        await workers.close()
        return reply

    assert "difference" in asyncio.run(run())["sums"]


def test_too_much_processor_time_ends_the_worker(make_opening: Make, a_study: Callable[..., Study]) -> None:
    opening = hostile(make_opening, a_study, "def attack(features):\n    while True: pass")
    limited = Opening(opening.site, opening.folder, opening.snapshot, opening.sha256, 2, opening.settings)
    with pytest.raises(WorkerDied) as died:
        asyncio.run(once(limited))
    assert isinstance(of_death(died.value), OutOfResources)


def test_too_much_memory_is_told_as_such(make_opening: Make, a_study: Callable[..., Study]) -> None:
    with pytest.raises(OutOfResources):
        asyncio.run(once(hostile(make_opening, a_study, "def attack(features): np.ones(1 << 30)")))


def test_nothing_is_opened_where_a_required_protection_is_missing(make_opening: Make, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    opening = make_opening(study)
    monkeypatch.setattr("aimer2.site.workers.in_force", lambda enforced, name: name != "files")
    with pytest.raises(NotAvailable, match="files"):
        asyncio.run(once(opening))


def test_an_idle_worker_ends(make_opening: Make, study: Study) -> None:
    async def run() -> bool:
        workers = Workers()
        worker = await workers.take("s", make_opening(study, idle_seconds=0.05))
        workers.rest("s")
        async with asyncio.timeout(5):
            await worker._process.wait()
        return workers.warm("s") is None

    assert asyncio.run(run())


def test_a_spare_worker_is_confined_and_computes_as_any_other(make_opening: Make, study: Study) -> None:
    async def both() -> tuple[Any, Any]:
        opening, found = make_opening(study), []
        for spare in (None, await Spare.begin(opening.settings, ready=True)):
            worker = await Worker.start(opening, spare)
            try:
                reply, files = await worker.ask(*request())
            finally:
                await worker.end()
            sums = {name: read_tree(OpenFile(file)) for name, file in zip(reply["sums"], files, strict=False)}
            found.append((worker.enforced, sums["difference"]["coefficients"].tolist()))
        return found[0], found[1]

    cold, spare = asyncio.run(both())
    assert cold == spare and cold[0]["network"] != "none" and cold[0]["files"]


def test_a_spare_worker_that_is_gone_is_no_fault_of_the_study(make_opening: Make, study: Study) -> None:
    async def taken() -> int:
        opening = make_opening(study)
        workers = Workers(opening.settings)
        try:
            await workers.refill()
            [spare] = workers.spares
            os.killpg(spare.process.pid, signal.SIGKILL)
            worker = await workers.take("0" * 64, opening)
            reply, files = await worker.ask(*request())
            for file in files:
                os.close(file)
            assert reply["sums"] and worker.pid != spare.process.pid
            return len(workers.spares)
        finally:
            await workers.close()

    assert asyncio.run(taken()) == 0


def test_the_next_spare_worker_waits_until_nothing_is_at_work(make_opening: Make, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aimer2.site.workers._REFILL_SECONDS", 0.0)

    async def spares() -> list[int]:
        opening = make_opening(study)
        workers = Workers(opening.settings)
        try:
            workers.prepare()
            worker = await workers.take("0" * 64, opening)
            _, files = await worker.ask(*request())
            for file in files:
                os.close(file)
            found = [len(workers.spares)]
            workers.rest("0" * 64)
            for _ in range(3_000):
                if workers.spares:
                    break
                await asyncio.sleep(0.01)
            return [*found, len(workers.spares)]
        finally:
            await workers.close()

    assert asyncio.run(spares()) == [0, 1]
