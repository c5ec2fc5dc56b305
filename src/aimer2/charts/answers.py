"""Which pictures answers to statistical questions give: survival curves, cumulative incidence and hazard, forests, histograms, epidemic curves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from aimer2.charts.chart import Axis, Chart, Counts, CountsRow, Rule, Series
from aimer2.charts.scale import steps
from aimer2.core.table import Cell, Table

Row: TypeAlias = Mapping[str, Any]


def charts(tables: Iterable[Table]) -> tuple[Chart, ...]:
    """In the order of the tables; a table without a picture gives none."""
    given = tuple(tables)
    return tuple(chart for table in given if (draw := _PICTURES.get(table.title)) for chart in draw(table, given))


def has_picture(table: Table) -> bool:
    return table.title in _PICTURES


def _rows(table: Table) -> list[Row]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def _by(rows: Iterable[Row], *names: str) -> dict[tuple[str, ...], list[Row]]:
    """Rows apart by these columns, in their order."""
    parted: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        parted.setdefault(tuple(str(row[name]) for name in names), []).append(row)
    return parted


def _column(rows: Sequence[Row], name: str, *before: Cell) -> tuple[float | None, ...]:
    return tuple(None if one is None else float(one) for one in (*before, *(row[name] for row in rows)))


def _over_time(table: Table, others: Sequence[Table], figure: str, at_start: float, parts: tuple[str, ...]) -> Iterator[Chart]:
    """Steps with bands from time 0 on, and below them how many are at risk where the answer tells it."""
    groups = _by(_rows(table), *parts)
    series = tuple(
        Series(
            name=", ".join(name),
            mark="step",
            x=_column(rows, "time", 0.0),
            y=_column(rows, figure, at_start),
            low=_column(rows, "low", at_start),
            high=_column(rows, "high", at_start),
        )
        for name, rows in groups.items()
    )
    if not series:
        return
    highest = 1.0 if at_start else None
    yield Chart(
        title=f"{table.analysis}: {table.title.lower()}",
        description=f"{table.title} over time with its band, for {_listed(one.name for one in series)}.",
        x=Axis(title="time", low=0.0),
        y=Axis(title=table.title.lower(), low=0.0, high=highest),
        series=series,
        counts=_at_risk(table, others),
    )


def _at_risk(table: Table, others: Sequence[Table]) -> Counts:
    """At the round times that a table of their own has, else near such times as the curve itself tells."""
    told = next((one for one in others if (one.analysis, one.title) == (table.analysis, "At risk")), None)
    groups = _by(_rows(told or table), "group")
    times = sorted({float(row["time"]) for rows in groups.values() for row in rows})
    if told is None:
        round_times = steps(0.0, times[-1])[1:]
        times = sorted({next(one for one in times if one >= round_time) for round_time in round_times})
    at = [{float(row["time"]): int(row["at_risk"]) for row in rows} for rows in groups.values()]
    rows = tuple(CountsRow(name=name, values=tuple(one.get(time) for time in times)) for (name,), one in zip(groups, at, strict=True))
    return Counts(title="at risk", at=tuple(times), rows=rows)


def _survival(table: Table, others: Sequence[Table]) -> Iterator[Chart]:
    yield from _over_time(table, others, "survival", 1.0, ("group",))


def _hazard(table: Table, others: Sequence[Table]) -> Iterator[Chart]:
    yield from _over_time(table, others, "hazard", 0.0, ("group",))


def _incidence(table: Table, others: Sequence[Table]) -> Iterator[Chart]:
    yield from _over_time(table, others, "incidence", 0.0, ("group", "event"))


def _forest(table: Table, others: Sequence[Table]) -> Iterator[Chart]:
    """Estimates with their intervals; ratios on a logarithmic axis, and then without the intercept, which is no ratio."""
    ratio = next((name for name in table.columns if f"{name}_low" in table.columns), "")
    names = (ratio, f"{ratio}_low", f"{ratio}_high") if ratio else ("estimate", "low", "high")
    rows = [row for row in _rows(table) if all(row[name] is not None for name in names) and row["term"] != "intercept"]
    if ratio:
        rows = [row for row in rows if min(float(row[name]) for name in names) > 0]
    # a ratio is told beside its logarithm by meta-analyses: one picture has one scale
    rows = [row for row in rows if not str(row["term"]).startswith("exp(")]
    if not rows:
        return
    shown = ratio.replace("_", " ") or "estimate"
    yield Chart(
        title=f"{table.analysis}: {table.title.lower()}",
        description="; ".join(f"{row['term']}: {row[names[0]]:.3g} ({row[names[1]]:.3g} to {row[names[2]]:.3g})" for row in rows),
        x=Axis(title=f"{shown} with its interval", scale="log" if ratio else "linear"),
        y=Axis(scale="names", names=tuple(str(row["term"]) for row in rows)),
        series=(
            Series(
                mark="intervals",
                x=_column(rows, names[0]),
                y=tuple(float(place) for place in range(len(rows))),
                low=_column(rows, names[1]),
                high=_column(rows, names[2]),
            ),
        ),
        rules=(Rule(axis="x", at=1.0 if ratio else 0.0),),
        beside=tuple(f"{row[names[0]]:.2f} ({row[names[1]]:.2f}–{row[names[2]]:.2f})" for row in rows),
    )


def _histograms(table: Table, others: Sequence[Table]) -> Iterator[Chart]:
    """One for each column; of several groups the shares, so that groups of different sizes can be compared."""
    for (column,), rows in _by(_rows(table), "column").items():
        groups = _by(rows, "group")
        series = []
        for (name,), own in groups.items():
            whole = max(sum(int(row["count"]) for row in own), 1) if len(groups) > 1 else 1
            heights = tuple(int(row["count"]) / whole for row in own)
            series.append(Series(name=name, mark="bars", x=_column(own, "from"), to=_column(own, "to"), y=heights))
        height = "patients’ rows" if len(groups) == 1 else "share of the group"
        yield Chart(
            title=f"{table.analysis}: {column}",
            description=f"Histogram of {column}.",
            x=Axis(title=column, low=float(rows[0]["from"]), high=float(rows[-1]["to"])),
            y=Axis(title=height, low=0.0),
            series=tuple(series),
        )


def _epidemic(table: Table, others: Sequence[Table]) -> Iterator[Chart]:
    """Cases by week, what was expected, the limit, and the weeks above it; one for each stratum."""
    for (stratum,), rows in _by(_rows(table), "stratum").items():
        weeks, alarms = _column(rows, "week"), [row for row in rows if row["alarm"]]
        lines = [("expected", "expected")]
        if table.facts.get("detector") == "farrington":
            # those of other detectors are of a statistic, not of cases
            lines.append(("limit", "limit"))
        full = "in_full" if "in_full" in table.columns else "cases"
        if _column(rows, full) != _column(rows, "cases"):
            lines.append(("in full", "in_full"))
        told = [(name, _column(rows, column)) for name, column in lines]
        # noise takes counts below 0, and no bar is
        cases = [max(one, 0.0) if one is not None else None for one in _column(rows, "cases")]
        series = [Series(name="cases", mark="bars", x=weeks, y=tuple(cases))]
        series += [Series(name=name, mark="line", x=weeks, y=values) for name, values in told if any(one is not None for one in values)]
        if alarms:
            series.append(Series(name="alarm", mark="points", x=_column(alarms, "week"), y=_column(alarms, full)))
        yield Chart(
            title=f"{table.analysis}: cases by week{f', {stratum}' if stratum else ''}",
            description=f"Cases by week; {len(alarms)} weeks are above their limit.",
            x=Axis(title="week"),
            y=Axis(title="cases", low=0.0),
            series=tuple(series),
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


_PICTURES: Mapping[str, Callable[[Table, Sequence[Table]], Iterator[Chart]]] = {
    "Survival": _survival,
    "Cumulative hazard": _hazard,
    "Cumulative incidence": _incidence,
    "Coefficients": _forest,
    "Pooled over imputations": _forest,
    "Common effect": _forest,
    "Histograms": _histograms,
    "Weeks": _epidemic,
}
