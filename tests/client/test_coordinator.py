from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from safetensors.numpy import load_file

from aimer2.cli.federation import RESEARCHER, Federation
from aimer2.client.coordinator import Coordinator
from aimer2.client.transport import Transport, fetch_fingerprint
from aimer2.core.errors import BadStudy, Conflict, NotAuthenticated, NotFound, Tampered, Unreachable
from aimer2.core.study import Study
from aimer2.identity.keys import SigningKey
from aimer2.study.events import RoundFinished, StudyFinished, StudyStopped

Make: TypeAlias = Callable[..., Study]


def test_a_study_from_submission_to_its_model(coordinator: Coordinator, tmp_path: Path, make_study: Make) -> None:
    run = coordinator.submit(make_study(seed=11))
    events = list(run.events())
    assert isinstance(events[-1], StudyFinished)
    assert [e.round_number for e in events if isinstance(e, RoundFinished) and e.stage == "train"] == [1, 2, 3]
    result = run.result()
    assert result["sites"].keys() == {"north"}
    assert [figure.name for figure in run.figures()] == ["auc", "loss"]
    saved = run.save_model(tmp_path / "model.safetensors")
    assert saved.sha256 == result["model"]["sha256"]
    model = coordinator.model(run.digest)
    stored = load_file(tmp_path / "model.safetensors")
    assert model.keys() == stored.keys()
    assert all((model[name] == stored[name]).all() for name in model)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_the_same_study_again_is_the_same_study(coordinator: Coordinator, make_study: Make) -> None:
    run = coordinator.submit(make_study(seed=12))
    assert isinstance(list(run.events())[-1], StudyFinished)
    before = len(coordinator.studies())
    again = coordinator.submit(make_study(seed=12))
    assert again.digest == run.digest
    assert len(coordinator.studies()) == before
    assert again.summary().state == "finished"


def test_a_changed_study_with_the_same_weights_can_be_submitted(coordinator: Coordinator, make_study: Make) -> None:
    # The weights come from the seed: they are at the coordinator already, but belong to the first study.
    first = coordinator.submit(make_study(seed=13))
    second = coordinator.submit(make_study(seed=13, question="Another question about the same rows?"))
    assert second.digest != first.digest
    assert isinstance(list(second.events())[-1], StudyFinished)


def test_events_go_on_after_the_last_one_seen(coordinator: Coordinator, make_study: Make) -> None:
    run = coordinator.submit(make_study(seed=14))
    whole = list(run.events())
    assert list(coordinator.events(run.digest, after=4)) == whole[4:]
    assert list(coordinator.events(run.digest, after=len(whole))) == []


def test_every_fault_is_told_before_anything_is_sent(tmp_path: Path, make_study: Make) -> None:
    nobody = Coordinator("https://127.0.0.1:9", "no token")
    with pytest.raises(BadStudy) as caught:
        nobody.submit(make_study(evaluation={"metrics": ["beauty"]}, method={"name": "magic"}))
    assert {fault.place for fault in caught.value.faults} == {"evaluation.metrics", "method.name"}


def test_a_site_that_is_not_enrolled_is_a_fault(coordinator: Coordinator, make_study: Make) -> None:
    with pytest.raises(BadStudy, match="atlantis"):
        coordinator.submit(make_study(sites={"names": ["north", "atlantis"], "minimum": 1}))


def test_a_study_is_found_by_prefix_and_by_name(coordinator: Coordinator, make_study: Make) -> None:
    name = f"found-{secrets.token_hex(4)}"
    run = coordinator.submit(make_study(seed=15, name=name))
    assert coordinator.study(run.digest).name == name
    assert coordinator.study(run.digest[:16]).digest == run.digest
    assert coordinator.study(name).digest == run.digest
    with pytest.raises(NotFound):
        coordinator.study("no-such-study")
    coordinator.submit(make_study(seed=16, name=name))
    with pytest.raises(Conflict):
        coordinator.study(name)


def test_a_study_can_be_paused_resumed_and_stopped(coordinator: Coordinator, make_study: Make) -> None:
    run = coordinator.submit(make_study(seed=17, method={"name": "fedavg", "rounds": 900}))
    stream = run.events()
    next(event for event in stream if isinstance(event, RoundFinished) and event.round_number == 2)
    assert coordinator.stop(run.digest, final=False).state == "paused"
    assert coordinator.resume(run.digest).state == "running"
    assert coordinator.stop(run.digest, final=True, reason="Enough.").state == "stopped"
    last = list(run.events())[-1]
    assert isinstance(last, StudyStopped)
    assert last.reason == "Enough."
    with pytest.raises(Conflict):
        coordinator.resume(run.digest)
    with pytest.raises(NotFound):
        run.result()


def test_a_preflight_tells_the_checks_of_every_site(coordinator: Coordinator, make_study: Make) -> None:
    run = coordinator.submit(make_study(seed=18, method={"name": "fedavg", "rounds": 900}))
    next(event for event in run.events() if isinstance(event, RoundFinished))
    found = coordinator.preflight(run.digest)
    coordinator.stop(run.digest, final=True)
    assert {site["site"]: site["outcome"] for site in found["sites"]} == {"north": "answer"}
    assert all(check["passed"] for site in found["sites"] for check in site["checks"] if check["blocking"])


def test_a_wrong_token_is_refused(federation: Federation, coordinator: Coordinator) -> None:
    stranger = Coordinator(federation.url, "not-a-token", fingerprint=fetch_fingerprint(federation.url))
    assert stranger.info().name == "Test coordinator"
    with pytest.raises(NotAuthenticated):
        stranger.studies()
    with pytest.raises(NotAuthenticated):
        list(stranger.events("0" * 64))


def test_another_certificate_is_refused_before_the_password_is_sent(federation: Federation) -> None:
    with pytest.raises(NotAuthenticated, match="certificate"):
        Coordinator(federation.url, fingerprint="0" * 64).login(RESEARCHER, federation.password)
    with pytest.raises(NotAuthenticated, match="certificate"):
        Coordinator(federation.url).login(RESEARCHER, federation.password)


def test_the_fingerprint_is_that_of_the_certificate(federation: Federation) -> None:
    assert Coordinator(federation.url, fingerprint=fetch_fingerprint(federation.url)).info().name == "Test coordinator"


def test_a_server_that_is_not_there_is_unreachable() -> None:
    with pytest.raises(Unreachable):
        Coordinator("https://127.0.0.1:9").info()


def test_a_result_that_another_key_has_signed_is_refused(federation: Federation, coordinator: Coordinator, make_study: Make) -> None:
    run = coordinator.submit(make_study(seed=19))
    assert isinstance(list(run.events())[-1], StudyFinished)
    other = SigningKey.generate().public.text
    suspicious = Coordinator(federation.url, fingerprint=fetch_fingerprint(federation.url), key=other)
    suspicious.login(RESEARCHER, federation.password)
    with pytest.raises(NotAuthenticated):
        suspicious.result(run.digest)


def _altered(monkeypatch: pytest.MonkeyPatch, path: str, change: Any) -> None:
    """Somebody between coordinator and researcher who changes answers (a proxy that inspects TLS can)."""
    send = Transport.send

    def changed(self: Transport, method: str, asked: str, *given: Any, **options: Any) -> Any:
        return change(send, self, method, asked, *given, **options) if path in asked else send(self, method, asked, *given, **options)

    monkeypatch.setattr(Transport, "send", changed)


def test_a_result_that_was_changed_on_the_way_is_refused(coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, make_study: Make) -> None:
    run = coordinator.submit(make_study(seed=20))
    assert isinstance(list(run.events())[-1], StudyFinished)

    def flip(send: Any, *given: Any, **options: Any) -> Any:
        response = send(*given, **options)
        head, payload, signature = response.data.decode().split(".")
        response._body = ".".join([head, ("A" if payload[40] != "A" else "B").join([payload[:40], payload[41:]]), signature]).encode()
        return response

    _altered(monkeypatch, "/result", flip)
    with pytest.raises(Tampered):
        run.result()


def test_the_result_of_another_study_is_refused(coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, make_study: Make) -> None:
    runs = [coordinator.submit(make_study(seed=seed)) for seed in (21, 22)]
    for run in runs:
        assert isinstance(list(run.events())[-1], StudyFinished)

    def other(send: Any, transport: Transport, method: str, path: str, *given: Any, **options: Any) -> Any:
        return send(transport, method, path.replace(runs[0].digest, runs[1].digest), *given, **options)

    _altered(monkeypatch, "/result", other)
    with pytest.raises(Tampered, match="another study"):
        runs[0].result()


def test_a_model_that_is_not_the_one_of_the_signed_result_is_refused(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_study: Make
) -> None:
    runs = [coordinator.submit(make_study(seed=seed)) for seed in (23, 24)]
    for run in runs:
        assert isinstance(list(run.events())[-1], StudyFinished)

    def other(send: Any, transport: Transport, method: str, path: str, *given: Any, **options: Any) -> Any:
        return send(transport, method, path.replace(runs[0].digest, runs[1].digest), *given, **options)

    _altered(monkeypatch, "/model", other)
    with pytest.raises(Tampered):
        runs[0].save_model(tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_an_upload_goes_on_where_it_broke_off(coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_study: Make) -> None:
    # 2.4 MB of weights: three pieces, of which the first attempt sends one.
    wide = {"framework": "torch", "name": "mlp", "options": {"hidden": [700, 800]}}
    send, sent, breaks = Transport.send, [], [True]

    def broken(self: Transport, method: str, path: str, body: Any = None, **options: Any) -> Any:
        if method != "PUT":
            return send(self, method, path, body, **options)
        pieces = list(body)
        sent.append(sum(map(len, pieces)))
        if breaks.pop() if breaks else False:
            shortened = {**options["headers"], "Content-Length": str(len(pieces[0]))}
            send(self, method, path, pieces[:1], **{**options, "headers": shortened})
            raise Unreachable("The line was cut.")
        return send(self, method, path, pieces, **options)

    monkeypatch.setattr(Transport, "send", broken)
    run = coordinator.submit(make_study(seed=25, model=wide))
    assert sent == [sent[0], sent[0] - (1 << 20)]
    assert run.summary().name == "heart"
    coordinator.stop(run.digest, final=True)


def test_a_watch_outlives_the_coordinators_restart(federation: Federation, make_study: Make) -> None:
    coordinator = federation.researcher()
    run = coordinator.submit(make_study(seed=26, method={"name": "fedavg", "rounds": 60}))
    seen = []
    for event in run.events():
        seen.append(event)
        if isinstance(event, RoundFinished) and event.stage == "train" and event.round_number == 3:
            federation.kill("coordinator")
            threading.Timer(1.0, federation.run_coordinator).start()
    assert isinstance(seen[-1], StudyFinished)
    rounds = [e.round_number for e in seen if isinstance(e, RoundFinished) and e.stage == "train"]
    assert rounds == list(range(1, 61))
    assert len(seen) == len({json.dumps(e.model_dump(mode="json"), sort_keys=True) for e in seen})
