"""The page finds what does not hold, as its script does in a browser: run here by Node, which has the browser's cryptography."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from made_versions import decided, signed, staged

from aimer2.client.simulate import made_up_key
from aimer2.messages.record import StudyRecord
from aimer2.repository.page import as_page

Make = Callable[..., Any]
RUN = r"""
const page = require("fs").readFileSync(0, "utf-8");
(0, eval)(page.match(/<script>([^]*?)<\/script>/)[1]);
const record = JSON.parse(page.match(/id="record">([^]*?)<\/script>/)[1]);
check(record).then((found) => console.log(JSON.stringify({ findings: found.findings, study: plain(found.study) })));
"""


@pytest.fixture(scope="module")
def node() -> str:
    found = shutil.which("node")
    if found is None and os.environ.get("CI") == "true":
        pytest.fail("Node is missing: it runs the page's script.")
    if found is None:
        pytest.skip("Node is missing: it runs the page's script.")
    return found


def checked(node: str, record: StudyRecord) -> dict[str, Any]:
    ran = subprocess.run([node, "-e", RUN], check=False, input=as_page(record), capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def failing(node: str, made: Any, **changes: Any) -> set[str]:
    record = StudyRecord.model_validate(made.record.model_dump(mode="json") | changes)
    return {one["what"] for one in checked(node, record)["findings"] if not one["holds"]}


def test_an_honest_page_holds_and_reads_the_study_from_the_bytes_of_its_digest(make: Make, node: str) -> None:
    made = make(seed=2**62 + 1, training={"learning_rate": 0.3, "local_steps": 5}, question="Does ß ≥ 1 < 2 tell </script><script>who is ill?")
    right = staged(made.record.study, made.version.model.sha256, "validated")
    record = StudyRecord.model_validate(made.record.model_dump() | {"stages": (right,)})
    found = checked(node, record)
    whats = [one["what"] for one in found["findings"]]
    assert whats == ["result", "study", "lineage", "approval of east", "approval of north", "approval of west", "stage"]
    assert all(one["holds"] for one in found["findings"])
    study = found["study"]["study"]
    assert study["question"] == made.version.study.question
    assert study["seed"] == str(2**62 + 1), "a whole number that a browser would round is told to its last digit"
    assert study["training"]["learning_rate"] == 0.3
    assert study["cohort"]["features"][2]["maximum"] == 900


def test_what_does_not_hold_is_named(make: Make, node: str) -> None:
    made = make()
    study, good = made.record.study, list(made.record.decisions)
    package = made.record.package.model_dump(mode="json")
    package["study"]["purpose"] = "something that no hospital has read"
    assert failing(node, made, package=package) == {"study"}
    assert failing(node, made, decisions=good[1:]) == {"approval of east"}
    assert failing(node, made, decisions=[decided(study, "east", made_up_key("north")), *good[1:]]) == {"approval of east"}
    assert failing(node, made, decisions=[decided(study, "east", decision="refuse"), *good[1:]]) == {"approval of east"}
    assert failing(node, made, stages=[staged(study, "2" * 64, "released")]) == {"stage"}
    measured = made.simulation.result | {"evaluation": {"of": study, "dataset": "heart", "held_out": 1}}
    assert failing(node, made, evaluations=[signed(measured)]) == set()
    assert failing(node, made, evaluations=[signed(measured | {"evaluation": {"of": "2" * 64}})]) == {"evaluation"}
    assert failing(node, made, evaluations=[signed(made.simulation.result)]) == {"evaluation"}
    assert failing(node, made, evaluations=[signed(measured | {"model": {"sha256": "2" * 64, "size": 1}})]) == {"evaluation"}
    assert failing(node, made, evaluations=[signed(measured, made_up_key("east"))]) == {"evaluation"}
    assert failing(node, made, stages=[staged(study, made.version.model.sha256, "released", made_up_key("east"))]) == {"stage"}
    assert failing(node, made, result=signed(made.simulation.result, made_up_key("east"))) == {"result"}
    result = made.simulation.result | {"model": {"sha256": "1" * 64, "size": 1}}
    assert failing(node, made, result=signed(result)) == {"lineage"}
    head, payload, signature = made.record.result.split(".")
    assert failing(node, made, result=f"{head}.{payload[:-4]}AAAA.{signature}") == {"result"}


def test_the_page_allows_its_own_script_and_nothing_else(make: Make) -> None:
    page = as_page(make(question="<script>alert(1)</script> is a question", name="evil").record)
    (policy,) = re.findall('Content-Security-Policy" content="([^"]*)"', page)
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 1
    (allowed,) = re.findall("script-src 'sha256-([^']*)'", policy)
    assert allowed == base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert not re.search("unsafe|https?:", policy)
    assert "<script>alert" not in page
