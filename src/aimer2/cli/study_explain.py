"""`aimer2 study explain`: a study as a hospital reads it before it decides, without a coordinator: the text for an ethics board."""

from __future__ import annotations

from pathlib import Path

import click

from aimer2.blobs.memory import MemoryStore
from aimer2.client.figures import printable
from aimer2.core.clock import SystemClock
from aimer2.core.study import read_study
from aimer2.messages.package import digest
from aimer2.secure_aggregation.roster import MINIMUM
from aimer2.site.description import describe_request
from aimer2.study.check import refuse_faults
from aimer2.study.pack import pack


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--hospitals", type=click.IntRange(1), help="How many take part, where the study names none; as many as it needs at least.")
def explain(file: Path, hospitals: int | None) -> None:
    """Print a study file as its hospitals read it: what is asked, what is read and what leaves. For an ethics board.

    The digest that hospitals approve is another one: it holds their keys too.
    """
    study = read_study(file)
    refuse_faults(study, file.parent, SystemClock())
    least = max(study.sites.minimum, MINIMUM if study.privacy.secure_aggregation else 1)
    names = study.sites.names or tuple(f"hospital-{number}" for number in range(1, (hospitals or least) + 1))
    package = pack(study, file.parent, dict.fromkeys(names, "its key"), MemoryStore())
    code = {name: (file.parent / name).read_text(encoding="utf-8") for name in package.files}
    for line in describe_request(package, digest(package), code):
        if not line.startswith("Digest"):
            click.echo(printable(line))
