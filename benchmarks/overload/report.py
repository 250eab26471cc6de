"""The results as a report with tables: OVERLOAD.md."""

import itertools
from collections.abc import Iterable

from benchmarks.overload.arrangements import DESCRIPTIONS
from benchmarks.overload.cells import MIX, name_of
from benchmarks.overload.measure import LARGE, LARGE_CLIENTS, SMALL_SHARE, Point
from benchmarks.overload.outcomes import Figures
from benchmarks.overload.results import Measured, Results

ROW = (
    "factor",
    "sent/s of offered",
    "done/s",
    "goodput / peak",
    "p50, p99 of done, ms",
    "429",
    "p50, p99 of 429, ms",
    "Retry-After, s",
)
DETAILS = (
    "factor",
    "requests",
    "413",
    "504 of admitted",
    "late",
    "other status",
    "broken",
    "no connection",
    "sent after due, p99, ms",
    "memory before, largest, after, MB",
    "ready, slowest, ms",
)
ABOUT = """\
Each cell is one request, named by rows x draws of `/free-energy`, or a mixture of all of them in which each kind has
the same share of the work. The peak of a cell is the highest rate of clients that wait for their answers: their number
is doubled until the rate no longer grows or a request is refused. It is measured before and after the points, and they
are compared with the mean, because the rate of a machine may drift. Requests arrive at multiples of the peak at times
of their own (Poisson), over at most {connections:,} connections. A request is timed from when it was due, whether or
not it could be sent then; one that is due while no connection is free, or that the generator cannot send within 0.1 s,
is not sent. If the generator is too slow for more than 5 %, the point is measured at a smaller factor, and the wanted
one follows in parentheses. Where connections run out, the service has {connections:,} unanswered requests at any time,
and the point keeps its factor.

Goodput is the work that is done within {limit:g} s of when it was due: answers with 200, of a mixture weighted by the
time that each kind takes at its own peak. Rates include the time until the last admitted request is answered. Goodput
is compared with the peak, at factor 1 with what was sent, if that was less."""


def text(results: Results) -> str:
    """Return the report."""
    commands = "\n".join(results.commands)
    lines = [
        "# Overload",
        "",
        f"vae-server {results.version} with the model {results.model} on {results.machine}. Points of at least "
        f"{results.seconds:g} s.",
        "",
        f"```\n{commands}\n```",
        "",
        ABOUT.format(connections=results.connections, limit=results.limit),
        "",
        "![goodput over peak](overload.png)",
    ]
    for name, found in results.arrangements.items():
        lines += ["", f"## {name}", "", f"The service: {DESCRIPTIONS[name]}.", "", *peak_table(found)]
        lines += ["", *point_table(found)]
        for point in itertools.chain.from_iterable(found.points.values()):
            lines += [f"\n{name_of(point.cell)}, {attempt}." for attempt in point.attempts]
        lines += [f"\n{name_of(cell)} was not measured: {why}." for cell, why in found.failed.items()]
        if any(point.kinds for points in found.points.values() for point in points):
            lines += ["", "The kinds of the mixture:", "", *kind_table(found)]
        lines += ["", "Errors, memory and readiness:", "", *detail_table(found)]
        if found.beside:
            lines += ["", "### Small requests beside large ones", "", *beside_table(found)]
    return "\n".join(lines) + "\n"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Return the lines of a Markdown table.

    >>> table(["a", "b"], [["1", "2"]])
    ['| a | b |', '|---|---|', '| 1 | 2 |']
    """
    titles = list(head)
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def peak_table(found: Measured) -> list[str]:
    rows = [
        [
            name_of(cell),
            number(peak.rate),
            "" if peak.later is None else number(peak.later),
            number(1e3 / peak.rate),
            f"{peak.clients:,}",
            times(peak.figures.p50, peak.figures.p99),
        ]
        for cell, peak in found.peaks.items()
    ]
    return table(("cell", "peak, requests/s", "after the points", "ms per request", "clients", "p50, p99, ms"), rows)


def point_table(found: Measured) -> list[str]:
    rows = [
        [
            name_of(cell),
            factor(point),
            f"{number(point.figures.sent / max(1, point.figures.requests) * point.offered)} of {number(point.offered)}",
            number(point.figures.rate),
            f"{found.ratio(point):.2f}",
            *refusals(point.figures),
        ]
        for cell, points in found.points.items()
        for point in points
    ]
    return table(("cell", *ROW), rows)


def kind_table(found: Measured) -> list[str]:
    rows = [
        [
            name_of(kind),
            factor(point),
            number(own.rate),
            share(own.work, point.figures.work),
            *refusals(own)[:3],
            share(own.expired, own.done + own.late + own.expired),
        ]
        for point in found.points.get(MIX, [])
        for kind, own in point.kinds.items()
    ]
    head = ("kind", "factor", "done/s", "share of work done", "p50, p99 of done, ms", "429", "p50, p99 of 429, ms")
    return table((*head, "504 of admitted"), rows)


def refusals(found: Figures) -> list[str]:
    """Return the cells on the times of answers and on refusals."""
    return [
        times(found.p50, found.p99),
        share(found.refused, found.sent),
        times(found.refusal_p50, found.refusal_p99),
        " to ".join(map(str, found.retry_after)),
    ]


def detail_table(found: Measured) -> list[str]:
    return table(
        ("cell", *DETAILS),
        [[name_of(cell), *details(point)] for cell, points in found.points.items() for point in points],
    )


def details(point: Point) -> list[str]:
    own = point.figures
    ready = "" if own.ready_max is None else f"{own.ready_max:,.0f}"
    return [
        factor(point),
        f"{own.requests:,}",
        f"{own.too_large:,}",
        share(own.expired, own.done + own.late + own.expired),
        f"{own.late:,}",
        f"{own.other:,}",
        f"{own.broken:,}",
        f"{own.no_connection:,}",
        "" if own.delay_p99 is None else f"{own.delay_p99:.1f}",
        ", ".join(f"{megabytes:,.0f}" for megabytes in own.memory),
        f"not ready {own.not_ready} times" if own.not_ready else ready,
    ]


def beside_table(found: Measured) -> list[str]:
    lines = [
        f"Small requests arrive at {SMALL_SHARE:.0%} of their peak, alone and beside {LARGE_CLIENTS} clients that send "
        f"{name_of(LARGE)} without end. A slice is the mean call of the model for these, or 50 ms, if that is more.",
        "",
    ]
    rows = []
    for cell, pair in found.beside.items():
        alone, beside = pair.alone.p99 or 0.0, pair.beside.p99 or 0.0
        slices = 3e3 * pair.slice_seconds
        rows.append(
            [
                name_of(cell),
                number(pair.rate),
                f"{pair.beside.requests:,}",
                times(pair.alone.p50, pair.alone.p99),
                times(pair.beside.p50, pair.beside.p99),
                f"{beside - alone:,.0f}",
                f"{slices:,.0f}",
                "yes" if beside - alone <= slices else "no",
                f"{pair.beside.requests - pair.beside.done:,}",
                number(pair.large.rate),
            ]
        )
    head = ["cell", "arrivals/s", "requests", "p50, p99 alone, ms", "p50, p99 beside, ms", "p99 beside - alone, ms"]
    return lines + table([*head, "3 slices, ms", "within", "not done", "large done/s"], rows)


def factor(point: Point) -> str:
    """Return the factor, and the wanted one in parentheses if it was not reached.

    The factor of a point that was offered in full is that of the command line.
    """
    return f"{point.factor:g}" if point.factor == point.wanted else f"{point.factor:g} ({point.wanted:g})"


def times(p50: float | None, p99: float | None) -> str:
    """Return two percentiles in milliseconds.

    >>> times(0.41, 1234.5)
    '0.4, 1,234'
    """
    if p50 is None or p99 is None:
        return ""
    return ", ".join(f"{value:,.1f}" if value < 10 else f"{value:,.0f}" for value in (p50, p99))


def number(value: float) -> str:
    """Return a rate with two or three digits that count.

    >>> [number(value) for value in (1234.5, 12.34, 0.4321)]
    ['1,234', '12.3', '0.43']
    """
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def share(part: float, whole: float) -> str:
    """Return a share in percent.

    >>> [share(*pair) for pair in ((0, 5), (1, 2), (1, 10_000), (9_996, 10_000), (0, 0))]
    ['0 %', '50 %', '0.01 %', '100.0 %', '']
    """
    if not whole:
        return ""
    percent = 100 * part / whole
    return f"{percent:.2g} %" if percent < 10 else f"{percent:.{1 if 99 <= percent < 100 else 0}f} %"
