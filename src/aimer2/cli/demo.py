"""`aimer2 demo`: a whole federated study on this machine, with nothing to configure."""

from __future__ import annotations

import datetime
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table as Printed

from aimer2.cli.demo_hospitals import Case, breast_cancer, heart_disease
from aimer2.cli.federation import RESEARCHER, Federation
from aimer2.client.comparison import Line, Price, compare, price
from aimer2.connectors.table import load_table
from aimer2.core.clock import SystemClock
from aimer2.core.study import Study
from aimer2.core.task import FigureDocument
from aimer2.identity.keys import SigningKey
from aimer2.site import snapshots
from aimer2.site.balance import Budget
from aimer2.site.folder import SiteFolder
from aimer2.site.reports import read_report
from aimer2.site.settings import read_settings

EPSILON, DELTA = 3.0, 1e-4
"""What the demo's study may tell of one patient, and at which chance of failing."""

BUDGET = Budget(4.0, DELTA)
"""What all studies together may tell of one patient of each hospital's data set."""

PRICES: Sequence[float | None] = (None, EPSILON, 1.0)

_SHOWN = {"auc": "AUC", "sensitivity": "sensitivity", "specificity": "specificity"}


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Folder with the four UCI heart-disease files.")
@click.option("--keep", is_flag=True, help="Leave coordinator and sites running.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where everything is written; by default a new temporary folder.")
def demo(data: Path | None, keep: bool, folder: Path | None) -> None:
    """Run a real study: a coordinator and four hospitals as processes on this machine."""
    # Bound to the stream of now: a spinner goes on while the federation reads what commands print.
    console = Console(file=sys.stdout)
    folder = folder or Path(tempfile.mkdtemp(prefix="aimer2-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    case = breast_cancer(folder) if data is None else heart_disease(data)
    federation = Federation(folder, outlives_us=keep)
    try:
        _run(console, federation, case)
        console.print(f"[dim]{time.monotonic() - began:.0f} s in all.[/dim]")
        if keep:
            _say_what_runs(console, federation)
            federation.processes.clear()
    finally:
        federation.stop()


def study_of(case: Case) -> Study:
    """The study that the demo submits."""
    day = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=30)
    return Study(
        **case.fields,
        purpose="To show a federated study from beginning to end.",
        ethics="None needed: public, anonymous data.",
        principal_investigator="Demo Person",
        expires=day,
        model={"framework": "torch", "name": "logistic"},
        training={"learning_rate": 1.0, "local_steps": 5},
        method={"name": "fedavg", "rounds": 10},
        privacy={"differential_privacy": {"epsilon": EPSILON, "delta": DELTA, "clip_norm": 1.0, "sampling_rate": 0.2}},
        sites={"names": sorted(h.name for h in case.hospitals), "minimum": len(case.hospitals), "quorum": 3, "deadline_seconds": 120},
        evaluation={"held_out": 0.25, "metrics": list(_SHOWN)},
    )


def _run(console: Console, federation: Federation, case: Case) -> None:
    console.print(f"[bold]{case.title}[/bold]")
    console.print("Each hospital is a process of its own with its own key, data, policy and audit log; they talk to the coordinator over TLS.")
    with console.status("Making the coordinator and the hospitals…"):
        federation.make_coordinator("Demo coordinator")
        federation.run_coordinator()
        federation.make_sites(case.hospitals)
        federation.set_budgets([hospital.name for hospital in case.hospitals], "registry", BUDGET)
        for hospital in case.hospitals:
            federation.run_site(hospital.name)
    study = study_of(case)
    researcher = federation.researcher()
    submitted = researcher.submit(study, federation.folder)
    console.print(f"Submitted [bold]{study.name}[/bold], digest {submitted.digest[:16]}…: {study.question}")
    submitted.watch(console)
    result = submitted.result()
    model, record = federation.folder / "model.safetensors", federation.folder / "result.json"
    submitted.save_model(model)
    record.write_text(json.dumps(result, indent=1), encoding="utf-8")
    console.print(f"\nPrivacy: {result['privacy']['statement']}")
    _compare(console, federation, study, submitted.digest, case)
    # Paths and commands are copied, so no line of them is broken.
    console.print(f"Model: {model}\nSigned result: {record}", soft_wrap=True)
    report = SiteFolder(federation.site(case.hospitals[0].name)).report(submitted.digest)
    console.print(f"Each hospital's own report lies in its folder: {report}", soft_wrap=True)
    console.print("Next, look at what a study file is and simulate one of your own: [bold].venv/bin/aimer2 study new my-study[/bold]")


def _compare(console: Console, federation: Federation, study: Study, digest: str, case: Case) -> None:
    folders = {hospital.name: SiteFolder(federation.site(hospital.name)) for hospital in case.hospitals}
    tables = {}
    for name, folder in folders.items():
        retention = read_settings(folder.settings).retention
        found = snapshots.current(folder, study.cohort.dataset, retention, SystemClock().now())
        tables[name] = load_table(found.path, verify=True)
    federated = {name: _own_figures(folder, digest) for name, folder in folders.items()}
    console.print(
        "\nThe demo plays all four hospitals, so it may read their local reports and pool their data. In a real federation nobody can: "
        "each hospital sees its own line, the researcher the pooled figures."
    )
    console.print(_table(compare(study, tables, federated)))
    with console.status("What does privacy cost? The same study at other ε…"):
        prices = price(study, tables, PRICES)
    console.print(_price_list(prices))


def _own_figures(folder: SiteFolder, digest: str) -> Sequence[FigureDocument]:
    """The final model's figures in the hospital's signed report; it is written when the hospital hears that the study has ended."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if folder.report(digest).exists():
            report = read_report(folder, digest, SigningKey.load(folder.key).public)
            final = [task for task in report["tasks"] if task["stage"] == "final"]
            if final:
                return [FigureDocument(**figure) for figure in final[-1]["figures"]]
        time.sleep(0.05)
    return ()


def _table(lines: Sequence[Line]) -> Printed:
    headers = ("hospital", "n train", "n test", "model", *_SHOWN.values())
    printed = Printed(*headers, title="On each hospital's own held-out patients (95 % interval)", box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    last = ""
    for line in lines:
        found: Mapping[str, FigureDocument] = {figure.name: figure for figure in line.figures}
        where = (line.site, str(line.rows), str(line.held_out)) if line.site != last else ("", "", "")
        if line.site != last and last:
            printed.add_section()
        last = line.site
        cells = [_cell(found.get(name)) for name in _SHOWN]
        printed.add_row(*where, line.arm, *cells, style="bold" if line.arm == "federated" else "")
    return printed


def _price_list(prices: Sequence[Price]) -> Printed:
    printed = Printed("ε", *_SHOWN.values(), title="What privacy costs: on all held-out patients, no noise in the figures", box=SIMPLE)
    for one in prices:
        found: Mapping[str, FigureDocument] = {figure.name: figure for figure in one.figures}
        told = "without" if one.epsilon is None else f"{one.epsilon:g}"
        printed.add_row(told, *(_cell(found.get(name)) for name in _SHOWN), style="bold" if one.epsilon == EPSILON else "")
    return printed


def _cell(figure: FigureDocument | None) -> str:
    if figure is None or figure.value is None:
        return "undefined"
    if figure.low is None or figure.high is None:
        return f"{figure.value:.2f}"
    return f"{figure.value:.2f} {figure.low:.2f}–{figure.high:.2f}"


def _say_what_runs(console: Console, federation: Federation) -> None:
    numbers = " ".join(str(process.pid) for process in federation.processes.values())
    console.print(
        f"\nStill running: {federation.url} (account {RESEARCHER}, password {federation.password}). Stop it all with: kill {numbers}", soft_wrap=True
    )
