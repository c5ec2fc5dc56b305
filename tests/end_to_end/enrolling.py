"""The story's beginning: a coordinator without any hospital, three that are invited, enrol, bring their data in and meet."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, expect
from tests.end_to_end.visitors import PASSWORD, Camera, Visitor, at_console, at_coordinator, until

from aimer2.cli.federation import Federation
from aimer2.identity.secret_files import write_secret

EXAMPLE = Path(__file__).parents[2] / "examples" / "heart-disease"
COLUMNS = "age,sex,cp,trestbps,chol,fbs,restecg,thalach,exang,oldpeak,slope,ca,thal,num"
FILES = {"budapest": "hungarian", "cleveland": "cleveland", "long-beach": "va"}
MAPPING = 'patient = "patient"\n' + (EXAMPLE / "mapping.toml").read_text(encoding="utf-8")
RULE = """
[[rule]]
name = "established methods on the heart registry"
set_by = "Dr Lee Ortiz, data-protection officer"
decision = "approve"
datasets = ["heart"]
methods = ["fedavg", "fedprox", "private_describe"]
secure_aggregation = true
"""


@dataclass
class World:
    """Who is in the story, and where."""

    federation: Federation
    browser: Browser
    camera: Camera
    people: dict[str, Visitor] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    invitations: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.federation.folder


@contextmanager
def a_world(folder: Path, browser: Browser, data: Path, pictures: Path | None) -> Iterator[World]:
    """A coordinator that knows an operator and no hospital, and three hospitals' files."""
    for name, source in FILES.items():
        rows = (data / "heart-disease-4sites" / f"processed.{source}.data").read_text().splitlines()
        (folder / f"{name}-data").mkdir()
        lines = [f"patient,{COLUMNS}", *(f"H{number:03},{row}" for number, row in enumerate(rows, 1))]
        (folder / f"{name}-data" / "heart.csv").write_text("\n".join(lines) + "\n")
    with Federation(folder) as made:
        made.command("coordinator", "init", "--name", "University Hospital North", "--port", str(made.port), "--url", made.url)
        write_secret(folder / "olga.password", PASSWORD.encode())
        made.command("coordinator", "user", "add", "olga", "--role", "operator", "--password-file", str(folder / "olga.password"))
        made.run_coordinator()
        yield World(made, browser, Camera(pictures))


def invite_and_enrol(world: World) -> None:
    """The operator makes two accounts and invites three hospitals on the pages; each enrols with what it was handed, and starts."""
    olga = at_coordinator(world.browser, world.camera, world.federation.url, "olga", PASSWORD)
    world.people["olga"] = olga
    olga.look("/")
    olga.page.goto("/people")
    passwords = {}
    for name, role in (("ada", "researcher"), ("otto", "auditor")):
        olga.fill(Name=name)
        olga.page.locator("#role").select_option(role)
        olga.press("Make the account")
        passwords[name] = olga.page.locator(".notice code").inner_text()
    olga.look(picture="people")
    olga.page.goto("/consortium")
    for name in FILES:
        olga.fill(Name_of_the_site=name)
        olga.press("Invite")
        world.invitations[name] = olga.page.locator("pre.code").inner_text()
    olga.look()
    enrol(world)
    olga.page.goto("/consortium")
    expect(olga.page.locator("main table").first.locator("tbody tr")).to_have_count(len(FILES))
    for name, password in passwords.items():
        world.people[name] = at_coordinator(world.browser, world.camera, world.federation.url, name, password)


def enrol(world: World) -> None:
    """`site init` with the invitation, of one hospital on its standard input; then an agent each, and two consoles."""
    for name in FILES:
        folder = world.federation.site(name)
        if name == "long-beach":
            command = [sys.executable, "-m", "aimer2", "site", "init", "-", "--folder", str(folder)]
            subprocess.run(command, input=world.invitations[name], text=True, capture_output=True, check=True, timeout=60)
            mapping = world.folder / "long-beach.toml"
            mapping.write_text(MAPPING)
            where = ["--csv", str(world.folder / f"{name}-data" / "heart.csv"), "--mapping", str(mapping), "--folder", str(folder)]
            world.federation.command("site", "dataset", "add", "heart", *where)
            (folder / "policy.toml").write_text(RULE)
        else:
            world.federation.command("site", "init", world.invitations[name], "--folder", str(folder))
            with socket.create_server(("127.0.0.1", 0)) as probe:
                port = int(probe.getsockname()[1])
            files = world.folder / f"{name}-data"
            with (folder / "site.toml").open("a") as settings:
                settings.write(f'\n[console]\nport = {port}\ndata_folders = ["{files}"]\n')
            world.federation.start(f"{name}-console", "site", "console", "--folder", str(folder))
        world.federation.run_site(name)


def add_data(world: World) -> None:
    """At each console the first account, and a data set of the hospital's file."""
    for name, person, login in (("cleveland", "Dr Ines Vogt", "vogt"), ("budapest", "Dr Adam Nagy", "nagy")):
        world.people[name] = at_console(world.browser, world.camera, printed(world, name), person, login)
        add_file(world, name)


def printed(world: World, name: str) -> str:
    """The link for the first account, as soon as the console has printed it."""
    log = world.federation.log(f"{name}-console")
    return str(until(lambda: re.search(r"http://\S+/welcome/\S+", log.read_text()), "the console's link")[0])


def add_file(world: World, name: str) -> None:
    """The columns are suggested, then said; what others may see of it is looked at and published."""
    visitor, file = world.people[name], world.folder / f"{name}-data" / "heart.csv"
    visitor.look("/datasets/new")
    visitor.fill(Name="heart", File=str(file), **{"Column with the patient's id": "patient"})
    visitor.press("Look at the file")
    visitor.sees("Read what the columns mean")
    suggested = visitor.page.locator("#mapping").input_value()
    assert 'patient = "patient"\n' in suggested and '[columns."age"]' in suggested
    visitor.look(picture="console-new-data-set" if name == "cleveland" else "")
    visitor.page.locator("#mapping").fill(MAPPING)
    visitor.press("Make the data set")
    visitor.waits_for(str(len(file.read_text().splitlines()) - 1), "/datasets")
    visitor.page.get_by_role("link", name="heart", exact=True).click()
    if name == "cleveland":
        visitor.look(picture="console-data-set")
        visitor.press("Publish the description")


def meet(world: World) -> None:
    """Each hospital's people take the others' keys: the digits by telephone, the statement as a file."""
    long_beach = str(world.federation.site("long-beach"))
    statements = {}
    for name in ("cleveland", "budapest"):
        visitor = world.people[name]
        visitor.page.goto("/keys")
        world.fingerprints[name] = visitor.page.locator("code.figure").inner_text()
        with visitor.page.expect_download() as waiting:
            visitor.press("Sign and download")
        statements[name] = world.folder / f"{name}.statement"
        waiting.value.save_as(statements[name])
    statements["long-beach"] = world.folder / "long-beach.statement"
    world.federation.command("site", "roster", "sign", "--out", str(statements["long-beach"]), "--by", "Dr Lee Ortiz", "--folder", long_beach)
    told = world.federation.command("site", "roster", "show", "--folder", long_beach)
    world.fingerprints["long-beach"] = " ".join(re.findall(r"\d{4,5}", told)[:8])
    for name in ("cleveland", "budapest"):
        visitor = world.people[name]
        for other in FILES:
            if other != name:
                visitor.page.locator("#site").fill(other)
                visitor.page.locator("#fingerprint").fill(world.fingerprints[other])
                visitor.page.locator("#statement").fill(statements[other].read_text())
                visitor.press("Compare and verify")
        expect(visitor.page.locator("main table").last.locator("tbody tr")).to_have_count(2)
        visitor.look(picture="console-keys" if name == "cleveland" else "")
        digits = world.fingerprints[name].split()
        where = ["--statement", str(statements[name]), "--by", "Dr Lee Ortiz", "--folder", long_beach]
        world.federation.command("site", "roster", "verify", name, *digits, *where)
