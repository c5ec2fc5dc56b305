"""Pages about one study: its document, what leaves a site, its code, its course, its results, and another study beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, final

from markupsafe import Markup
from starlette.responses import RedirectResponse, Response

from aimer2.charts.answers import charts
from aimer2.charts.chart import Axis, Chart, Series
from aimer2.core.errors import BadInput, NotFound
from aimer2.core.said import Said, mark
from aimer2.core.table import Table
from aimer2.core.task import restored
from aimer2.dashboard.api import route
from aimer2.dashboard.live import PARTS, Live
from aimer2.dashboard.overview import read
from aimer2.dashboard.visit import Visit
from aimer2.identity.documents import open_document
from aimer2.identity.keys import PublicKey
from aimer2.messages.package import Package
from aimer2.messages.record import StudyRecord
from aimer2.repository.page import as_page
from aimer2.study.events import RoundFinished
from aimer2.web.answers import read_form
from aimer2.web.code import coloured_page
from aimer2.web.pages import moment
from aimer2.web.translation import nested

Describe: TypeAlias = Callable[[Package], Mapping[str, Sequence[Said]]]
"""What a hospital's data-protection officer is told of a package: what is read there, what runs and what leaves."""

_LARGEST_CODE = 1 << 20

TABS = (
    ("", mark("Study"), "see-study"),
    ("live", mark("Live"), "follow-study"),
    ("leaves", mark("What leaves a site"), "see-study"),
    ("code", mark("Code"), "see-study"),
    ("results", mark("Results"), "follow-study"),
    ("compare", mark("Compare"), "see-study"),
    ("people", mark("People"), "follow-study"),
)
PARTS_IN_A_STUDY = ("principal-investigator", "researcher", "auditor")
FINAL = mark("Final model, with 95 % intervals")


@final
class StudyPages:
    def __init__(self, live: Live, describe: Describe) -> None:
        self._live = live
        self._describe = describe

    async def document(self, visit: Visit) -> Response:
        study, package = await _study(visit), await _package(visit)
        found = (await read(visit))["studies"]
        line = next(one for one in found if one["digest"] == study["digest"])
        return _page(
            visit,
            study,
            "",
            "study.html",
            document=package["study"],
            line=line,
            text=(await coloured_page([("study.json", json.dumps(package, indent=2, ensure_ascii=False))]))[0],
            digest_code=study["digest"],
            submitted=moment(study["submitted"]) + f" · {study['submitted_by']}",
            related=[one for one in found[::-1] if one["name"] == study["name"] and one is not line],
            may_change=study["submitted_by"] == visit.me["user"] and study["superseded_by"] is None and study["state"] != "running",
        )

    async def leaves(self, visit: Visit) -> Response:
        study, package = await _study(visit), Package.model_validate(await _package(visit))
        private = package.study.privacy.differential_privacy is not None
        charged = await visit.get(route("/v1/spending?study={}", study["digest"])) if private else []
        described = {part: nested(lines) for part, lines in self._describe(package).items()}
        return _page(visit, study, "leaves", "leaves.html", described=described, private=private, charged=charged)

    async def code(self, visit: Visit) -> Response:
        study, files = await _study(visit), await _files(visit, Package.model_validate(await _package(visit)))
        shown = await coloured_page([(name, text) for name, text, _ in files])
        return _page(visit, study, "code", "code.html", files=[(name, html, sha256) for (name, _, sha256), html in zip(files, shown, strict=True)])

    async def live(self, visit: Visit) -> Response:
        study, package = await _study(visit), await _package(visit)
        course = await self._live.course(visit, study["digest"])
        if study["state"] == "running":
            course.set_work(await visit.get(route("/v1/studies/{}/work", study["digest"])))
        asked = package["study"]["privacy"]
        return _page(
            visit,
            study,
            "live",
            "live.html",
            parts={part: Markup(self._live.drawn(course, part, visit.language)) for part in PARTS},
            line_budget=(asked.get("differential_privacy") or {}).get("epsilon"),
            secure=asked["secure_aggregation"],
        )

    async def stream(self, visit: Visit) -> Response:
        return await self._live.stream(visit, visit.part("digest"))

    async def rounds(self, visit: Visit) -> Response:
        study = await _study(visit)
        course = await self._live.course(visit, study["digest"])
        return _page(visit, study, "live", "rounds.html", rounds=course.rounds, names=list(course.figures), values_of=_values)

    async def results(self, visit: Visit) -> Response:
        study, result = await _study(visit), await _result(visit)
        tables = [Table(**table) for table in result.get("tables", ())]
        pictures = [*charts(tables), *_forest(visit, result["figures"])]
        return _page(visit, study, "results", "results.html", result=result, tables=tables, charts=pictures)

    async def result_file(self, visit: Visit) -> Response:
        text = json.dumps(await _result(visit), indent=1, ensure_ascii=False)
        return download(text, "application/json", f"result-{visit.part('digest')[:16]}.json")

    async def record(self, visit: Visit) -> Response:
        """The page that checks itself, as a file: it has a script of its own, which these pages would not run."""
        record = StudyRecord.model_validate(await visit.get(route("/v1/studies/{}/record", visit.part("digest"))))
        return download(as_page(record), "text/html", f"record-{record.study[:16]}.html")

    async def compare(self, visit: Visit) -> Response:
        study, other = await _study(visit), visit.asked("with")
        others = [one for one in (await read(visit))["studies"][::-1] if one["digest"] != study["digest"]]
        given: dict[str, Any] = {"others": others, "chosen": other, "this_name": "", "other_name": "", "differences": [], "figures": []}
        if other:
            packages = [await _package(visit), await _package(visit, other)]
            figures = [await _figures(visit, study["digest"]), await _figures(visit, other)]
            names = dict.fromkeys([*figures[0], *figures[1]])
            given |= {
                "this_name": f"{study['name']} {study['digest'][:6]}",
                "other_name": f"{packages[1]['study']['name']} {other[:6]}",
                "differences": list(differences(packages[0], packages[1])),
                "figures": [(name, figures[0].get(name), figures[1].get(name)) for name in names],
            }
        return _page(visit, study, "compare", "compare.html", **given)

    async def people(self, visit: Visit) -> Response:
        study = await _study(visit)
        found = await visit.get(route("/v1/studies/{}/people", study["digest"]))
        return _page(visit, study, "people", "study_people.html", people=found, parts=PARTS_IN_A_STUDY)

    async def share(self, visit: Visit) -> Response:
        form = await read_form(visit.request)
        return await _share(visit, form, "PUT", {"part": form.get("part", "")})

    async def unshare(self, visit: Visit) -> Response:
        return await _share(visit, await read_form(visit.request), "DELETE")

    async def check_data(self, visit: Visit) -> Response:
        """Asks the sites whether their data fit, and shows what they say; nothing is computed."""
        study = await _study(visit)
        found = await visit.do("POST", route("/v1/studies/{}/preflight", study["digest"]))
        return _page(visit, study, "", "data_check.html", sites=found["sites"])

    async def archive(self, visit: Visit) -> Response:
        archived = (await read_form(visit.request)).get("archived") == "yes"
        await visit.do("POST", route("/v1/studies/{}/archive", visit.part("digest")), {"archived": archived})
        return RedirectResponse(f"/studies/{visit.part('digest')}", 303)

    async def stop_page(self, visit: Visit) -> Response:
        return _page(visit, await _study(visit), "live", "stop.html")

    async def start(self, visit: Visit) -> Response:
        return await _change(visit, "start")

    async def pause(self, visit: Visit) -> Response:
        return await _change(visit, "stop", {"final": False, "reason": f"Paused by {visit.me['user']}."})

    async def resume(self, visit: Visit) -> Response:
        return await _change(visit, "resume")

    async def stop(self, visit: Visit) -> Response:
        return await _change(visit, "stop", {"final": True, "reason": (await read_form(visit.request)).get("reason", "")})


def download(text: str, media_type: str, name: str) -> Response:
    return Response(text, 200, {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}, f"{media_type}; charset=utf-8")


def differences(one: Any, other: Any, place: str = "") -> Iterator[tuple[str, str, str]]:
    """Each place in which two documents differ, with what either says there."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for name in dict.fromkeys([*one, *other]):
            yield from differences(one.get(name), other.get(name), f"{place}.{name}" if place else str(name))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (left, right) in enumerate(zip(one, other, strict=True), 1):
            yield from differences(left, right, f"{place}[{number}]")
    elif one != other:
        yield place, _written(one), _written(other)


def _written(value: Any) -> str:
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _page(visit: Visit, study: Mapping[str, Any], tab: str, template: str, **values: Any) -> Response:
    shown = ("results",) if study["result"] is None else ()
    tabs = [(key, visit.language.text(text)) for key, text, action in TABS if visit.may(action) and key not in shown]
    return visit.page(template, current="/studies", study=study, tab=tab, tabs=tabs, **values)


async def _study(visit: Visit) -> dict[str, Any]:
    found: dict[str, Any] = await visit.get(route("/v1/studies/{}", visit.part("digest")))
    return found


async def _package(visit: Visit, digest: str = "") -> dict[str, Any]:
    found: dict[str, Any] = await visit.get(route("/v1/studies/{}/package", digest or visit.part("digest")))
    return found


async def _files(visit: Visit, package: Package) -> list[tuple[str, str, str]]:
    """Name, text and SHA-256 of the code, for who may fetch it."""
    found = []
    for name, ref in package.files.items() if visit.may("use-blobs") else ():
        if ref.size <= _LARGEST_CODE:
            reply = await visit.api.ask(visit.request, "GET", route("/v1/blobs/{}", ref.sha256))
            found.append((name, reply.body.decode("utf-8", "replace"), ref.sha256))
    return found


async def _result(visit: Visit, digest: str = "") -> dict[str, Any]:
    """What the coordinator has signed, checked with its key."""
    key = PublicKey.from_text((await visit.get("/v1/coordinator"))["key"])
    reply = await visit.api.ask(visit.request, "GET", route("/v1/studies/{}/result", digest or visit.part("digest")))
    found: dict[str, Any] = json.loads(open_document(reply.body.decode(), key, kind="result"), object_hook=restored)
    return found


async def _figures(visit: Visit, digest: str) -> dict[str, float | None]:
    try:
        return {figure["name"]: figure["value"] for figure in (await _result(visit, digest))["figures"]}
    except NotFound:
        return {}


async def _change(visit: Visit, verb: str, body: Any = None) -> Response:
    await visit.do("POST", route("/v1/studies/{}/{}", visit.part("digest"), verb), body)
    return RedirectResponse(f"/studies/{visit.part('digest')}/live", 303)


async def _share(visit: Visit, form: Mapping[str, str], method: str, body: Any = None) -> Response:
    """The form names the person: an account may bear a name that is no part of a path."""
    digest, name = visit.part("digest"), form.get("name", "").strip()
    if not name:
        raise BadInput("The form names nobody.")
    await visit.do(method, route("/v1/studies/{}/people/{}", digest, name), body)
    return RedirectResponse(f"/studies/{digest}/people", 303)


def _values(event: RoundFinished) -> dict[str, float | None]:
    return {figure.name: figure.value for figure in event.figures}


def _forest(visit: Visit, figures: Sequence[Mapping[str, Any]]) -> Iterator[Chart]:
    """Figures that are shares, with their intervals, below each other."""
    shown = [figure for figure in figures if figure["value"] is not None and figure["low"] is not None and 0 <= figure["low"] <= figure["high"] <= 1]
    if shown:
        title = visit.language.text(FINAL)
        x, low, high = (tuple(figure[name] for figure in shown) for name in ("value", "low", "high"))
        yield Chart(
            title=title,
            description="; ".join(f"{figure['name']} {figure['value']:.3f} ({figure['low']:.3f} – {figure['high']:.3f})" for figure in shown),
            y=Axis(scale="names", names=tuple(figure["name"] for figure in shown)),
            series=(Series(mark="intervals", x=x, y=tuple(float(place) for place in range(len(shown))), low=low, high=high),),
            beside=tuple(f"{figure['value']:.3f}" for figure in shown),
        )
