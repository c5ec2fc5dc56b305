"""The model card: what the model is for, whose data made it, how good it is and for whom, what protects the patients, where it ends.

Mitchell et al. 2019, "Model Cards for Model Reporting"; every line is taken from signed documents, none is written by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, final

from aimer2.core.said import Said, mark, say
from aimer2.core.study.image import described
from aimer2.core.task import FigureDocument
from aimer2.repository.inputs import inputs_of
from aimer2.repository.version import Version

RELEASED = mark("Released by the site.")
_LIMITS = (
    mark("It was measured on patients of the sites named here, held out at random; how good it is elsewhere, or later, is not known."),
    mark("Nobody has approved it for use in the care of patients by making this card."),
)


@final
@dataclass(frozen=True, slots=True)
class Section:
    """A heading with facts (name, text), a table (head, rows) and remarks, any of them empty.

    Headings, names of facts and remarks are ours; a text or a cell is, where it is `Said`, and else what somebody has given.
    """

    title: str
    facts: Sequence[tuple[str, str]] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    remarks: Sequence[str] = ()


@final
@dataclass(frozen=True, slots=True)
class Card:
    title: str
    lead: str
    sections: Sequence[Section] = field(default_factory=tuple)

    def told(self, tell: Callable[[str], str]) -> Card:
        """The card with its sentences in another language; what people and studies say stays as it is, also where it is a word of ours."""
        return Card(self.title, self.lead, [_told(section, tell) for section in self.sections])


def _told(section: Section, tell: Callable[[str], str]) -> Section:
    def ours(text: str) -> str:
        return tell(text) if isinstance(text, Said) else text

    return Section(
        tell(section.title),
        [(tell(name), ours(text)) for name, text in section.facts],
        [tell(cell) for cell in section.head],
        [[ours(cell) for cell in row] for row in section.rows],
        [tell(remark) for remark in section.remarks],
    )


def card(version: Version) -> Card:
    study, result = version.study, version.result
    return Card(
        title=f"{study.name}: {_target(version)}",
        lead=study.question,
        sections=(
            _identity(version),
            Section("Intended use", [("purpose", study.purpose), ("ethics approval", study.ethics), ("led by", study.principal_investigator)]),
            _inputs(version),
            _training(version),
            _performance("Performance", "On the patients held out at all sites together.", result["figures"]),
            *(
                _performance(say("Performance at {site}", site=site), "Released by the site.", figures)
                for site, figures in sorted(result["released"].items())
            ),
            *(_evaluation(version, one) for one in version.evaluations),
            Section("Privacy", remarks=[result["privacy"]["statement"]]),
            Section("Limits", remarks=[*_limits(version), *_LIMITS]),
        ),
    )


def _identity(version: Version) -> Section:
    facts = [
        ("study", version.digest),
        ("weights", say("SHA-256 {sha256}, {size} bytes", sha256=version.model.sha256, size=f"{version.model.size:,}")),
        ("architecture", _architecture(version)),
        ("finished", str(version.result["finished"])),
        ("stage", Said(version.stage)),
        ("made with", f"AIMER2 {version.result['environment']['aimer2']}"),
    ]
    moved = [(Said(change.stage), change.by, change.reason) for change in version.stages]
    return Section("Identity", facts, ("stage", "by", "reason") if moved else (), moved)


def _inputs(version: Version) -> Section:
    cohort = version.study.cohort
    # of a category each level is an input, and the card tells them in one line
    inputs = {one["name"]: one for one in inputs_of(cohort)}.values()
    rows = [(one["name"], Said(one["kind"]), _values(one)) for one in inputs]
    facts = [("tells", _target(version)), ("missing values", Said(cohort.missing)), ("standardised", Said(cohort.standardise))]
    return Section("What it reads", facts, ("input", "kind", "size, unit, range or categories"), rows)


def _training(version: Version) -> Section:
    result, method = version.result, version.study.method
    training = sum(one["stage"] == "train" for one in result["rounds"])
    rows = [(site, say("{rounds} of {training}", rounds=part["rounds"], training=training)) for site, part in sorted(result["sites"].items())]
    facts = [("method", say("{method} version {version}", method=method.name, version=result["method"]["version"])), ("rounds", str(training))]
    counts = (result["preprocessing"]["moments"] or {}).get("count") or []
    if told := [count for count in counts if count is not None]:
        facts.append((mark("rows trained on"), say("about {count}", count=f"{max(told):,}")))
    return Section("Training", facts, ("site", "rounds taken part in"), rows)


def _performance(title: str, where: str, figures: Sequence[Mapping[str, Any]]) -> Section:
    rows = [_figure(FigureDocument(**figure)) for figure in figures]
    if not rows:
        return Section(title, remarks=["Nothing was measured: the study held no patients out, or its figures were not told."])
    return Section(title, head=("figure", "value", "95 % interval", "patients", "note"), rows=rows, remarks=[where])


def _evaluation(version: Version, result: Mapping[str, Any]) -> Section:
    """A study of its own has measured the model; what single sites released of it stands in that study's record."""
    about, sites = result["evaluation"], measured_at(result)
    figures = _performance(say("Evaluated by {study}", study=result["name"]), "On patients of all these sites together.", result["figures"])
    facts = [
        ("study", str(result["study"])),
        ("finished", str(result["finished"])),
        ("led by", str(result["principal_investigator"])),
        ("sites", ", ".join(sites)),
        ("data set", str(about["dataset"])),
        ("patients", say("all") if about["held_out"] == 1 else say("the {share} that each data set holds out", share=f"{about['held_out']:.0%}")),
        ("secrecy", Said(result["privacy"]["statement"])),
    ]
    trained = sorted(set(sites) & set(measured_at(version.result)))
    remarks = list(figures.remarks)
    if trained and about["held_out"] == 1:
        message = "Sites whose patients it was trained on are among them ({sites}): for these the figures may flatter it."
        remarks.append(say(message, sites=", ".join(trained)))
    return Section(figures.title, facts, figures.head, figures.rows, remarks)


def measured_at(result: Mapping[str, Any]) -> Sequence[str]:
    """The sites that took part: whose patients are in a model, or in the figures of an evaluation."""
    return [site for site, part in sorted(result["sites"].items()) if part["rounds"]]


def _figure(figure: FigureDocument) -> Sequence[str]:
    interval = "" if figure.low is None or figure.high is None else say("{low} to {high}", low=f"{figure.low:.3f}", high=f"{figure.high:.3f}")
    value = say("undefined") if figure.value is None else f"{figure.value:.3f}"
    note = figure.note if isinstance(figure.note, Said) else Said(figure.note)
    return Said(figure.name), value, interval, "" if figure.n is None else f"{figure.n:g}", note


def _limits(version: Version) -> list[str]:
    found = []
    if version.stage == "candidate":
        found.append(mark("Nobody has validated it yet."))
    if version.stage == "retired":
        found.append(say("It is retired: {reason}", reason=version.stages[-1].reason))
    lost = [site for site, part in sorted(version.result["sites"].items()) if not part["rounds"]]
    if lost:
        found.append(say("No patients of {sites} are in it, which the study had asked.", sites=", ".join(lost)))
    if version.study.model.code is not None:
        found.append(mark("Its architecture is code that the study brought; the record holds its digest."))
    return found


def _architecture(version: Version) -> str:
    model = version.study.model
    options = ", ".join(f"{name} = {value}" for name, value in model.options.items())
    return f"{model.framework}, {model.name or model.code}" + (f" ({options})" if options else "")


def _target(version: Version) -> str:
    target = version.study.cohort.target
    classes = f": {', '.join(target.categories)}" if target.categories else ""
    return f"{target.name} ({target.kind}{classes})"


def _values(one: Mapping[str, Any]) -> str:
    if one["kind"] == "image":
        return Said(described(one["channels"], one["height"], one["width"]))
    if one["kind"] == "category":
        return ", ".join(one["categories"])
    low, high = (f"{one[bound]:g}" if bound in one else "" for bound in ("minimum", "maximum"))
    parts = {"unit": one.get("unit", ""), "range": say("{low} to {high}", low=low, high=high) if low or high else ""}
    return Said(", ".join(f"{{{name}}}" for name, part in parts.items() if part), parts)


def as_markdown(made: Card) -> str:
    lines = [f"# {_md(made.title)}", "", _md(made.lead), ""]
    for section in made.sections:
        lines += [f"## {_md(section.title)}", ""]
        lines += [f"- **{_md(name)}**: {_md(text)}" for name, text in section.facts] + [""] * bool(section.facts)
        if section.head:
            lines += [_row(section.head), _row(["---"] * len(section.head)), *(_row([_md(cell) for cell in row]) for row in section.rows), ""]
        for remark in section.remarks:
            lines += [_md(remark), ""]
    return "\n".join(lines)


def as_html(made: Card, language: str = "en") -> str:
    """One page without script or anything from outside, for a screen and for paper; ``language``: the tag of the one it is told in."""
    body = [f"<h1>{escape(made.title)}</h1><p>{escape(made.lead)}</p>"]
    for section in made.sections:
        body.append(f"<section><h2>{escape(section.title)}</h2>")
        if section.facts:
            body.append("<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in section.facts) + "</dl>")
        if section.head:
            head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in section.head)
            rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in section.rows)
            body.append(f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>")
        body += [f"<p>{escape(remark)}</p>" for remark in section.remarks]
        body.append("</section>")
    return _PAGE.format(language=escape(language), title=escape(made.title), body="\n".join(body))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _md(text: str) -> str:
    """Text of people as text: on one line, and nothing in it is markup."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>#|!" else letter for letter in " ".join(text.split()))


_PAGE = """<!doctype html>
<html lang="{language}"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.6rem; }} h2 {{ font-size: 1.15rem; margin-top: 1.8rem; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; }} dt {{ font-weight: 600; }} dd {{ margin: 0; }}
table {{ border-collapse: collapse; width: 100%; }} th, td {{ text-align: left; padding: .25rem .5rem; border-bottom: 1px solid; }}
@media print {{ body {{ margin: 0; max-width: none; }} section {{ break-inside: avoid; }} }}
</style></head><body><main>
{body}
</main></body></html>
"""
