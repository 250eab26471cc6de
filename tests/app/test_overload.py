"""Requests, figures and text of the overload benchmark, and one loop of each kind against a small server."""

import asyncio
import doctest
import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.overload import cells, measure, plot, report
from benchmarks.overload.arrangements import PROXY_CONFIGURATION, proxy_configuration
from benchmarks.overload.client import ClosedLoop, OpenLoop
from benchmarks.overload.measure import Beside, Options, Peak, Point
from benchmarks.overload.outcomes import BROKEN, NO_CONNECTION, TOO_LATE, Figures, Outcomes, figures, goodput_ratio
from benchmarks.overload.results import Measured, Results, point_ratio

OPTIONS = Options(seconds=20, max_seconds=120, limit=60, connections=10)


@pytest.mark.parametrize("module", [cells, measure, report])
def test_doctests(module: object) -> None:
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]


def test_arrivals_are_a_poisson_process() -> None:
    times = cells.poisson(1000, 20, seed=0)
    gaps = np.diff(times)
    assert times == sorted(times) and times[0] > 0 and times[-1] < 20
    assert len(times) == 20_000
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)  # as of an exponential distribution
    assert times == cells.poisson(1000, 20, seed=0) != cells.poisson(1000, 20, seed=1)


def test_all_kinds_of_a_mixture_have_the_same_work() -> None:
    costs = {"small": 0.001, "medium": 0.04, "large": 2.0}
    order = cells.order(cells.mixture(costs), 20_000, seed=0)
    work = {kind: costs[kind] * count for kind, count in Counter(order).items()}
    assert list(work.values()) == pytest.approx([sum(work.values()) / 3] * 3, rel=0.1)
    endless = itertools.islice(cells.endless(cells.mixture(costs), 20_000), 20_000)
    assert Counter(endless) == Counter(order)


def test_requests_have_images_of_the_model() -> None:
    head, _, body = cells.KINDS["8x16"].encoded((28, 28)).partition(b"\r\n\r\n")
    assert head.startswith(b"POST /free-energy?samples=16 HTTP/1.1\r\n")
    assert f"Content-Length: {len(body)}".encode() in head and len(body) > 8 * 28 * 28
    assert cells.KINDS["sample"].encoded((28, 28)).startswith(b"GET /sample?n=256 HTTP/1.1\r\n")


def test_points_take_long_enough_for_slow_cells() -> None:
    assert measure.point_seconds(1000, False, OPTIONS) == 20
    assert measure.point_seconds(0.5, False, OPTIONS) == 100
    assert measure.point_seconds(0.1, False, OPTIONS) == 120


def outcomes() -> Outcomes:
    """Two seconds of requests: four done, the last of them late; two refused; the others failed or were not sent."""
    found = Outcomes()
    found.started = 100.0
    answers = [(200, 0.1), (200, 0.2), (200, 0.3), (200, 9.0), (429, 0.001), (429, 0.003), (413, 0.1), (504, 5.0)]
    for status, seconds in [*answers, (503, 0.1), (BROKEN, 0.1), (NO_CONNECTION, 0.0), (TOO_LATE, 0.0)]:
        number = found.add("large" if seconds == 0.3 else "small", due=101.0, status=status)
        found.seconds[number] = seconds
    found.retry_after = [2, 1]
    return found


def test_figures_count_each_request_once() -> None:
    found = figures(outcomes(), {"small": 0.5, "large": 4.0}, seconds=2, limit=8)
    parts = (found.done, found.late, found.refused, found.too_large, found.expired, found.other, found.broken)
    assert parts == (3, 1, 2, 1, 1, 1, 1)
    assert (found.requests, found.sent, found.no_connection) == (12, 10, 1)
    assert found.in_time_share == pytest.approx(11 / 12)
    assert found.elapsed == pytest.approx(10)  # until the last answer
    assert (found.work, found.sent_work) == (5.0, 8.5)
    assert found.retry_after == [1, 2]
    assert found.refusal_p50 == pytest.approx(2)
    large = figures(outcomes(), {"small": 0.5, "large": 4.0}, seconds=2, limit=8, kind="large")
    assert (large.requests, large.done, large.work) == (1, 1, 4.0)
    assert large.p50 == pytest.approx(300)


def test_goodput_is_compared_with_what_was_possible() -> None:
    assert goodput_ratio(done=90, sent=90, peak=100, factor=1) == 1.0
    assert goodput_ratio(done=90, sent=110, peak=100, factor=1) == 0.9
    assert goodput_ratio(done=90, sent=1000, peak=100, factor=10) == 0.9


def loop_figures(rate: float) -> Figures:
    found = Outcomes()
    found.started = 0.0
    for index in range(int(10 * rate)):
        found.seconds[found.add("1x1", due=0.0, status=200 if index % 2 else 429)] = 0.1
    return figures(found, {"1x1": 0.01}, seconds=10)


def some_results() -> Results:
    half = loop_figures(100)
    peak = Peak("1x1", 64, replace(half, done=1000), {"1x1": 0.01})
    points = [
        Point("1x1", 4, 4, 400.0, half),
        Point("1x1", 10, 7.5, 750.0, half, {"1x1": half}, ["factor 10: 76 % sent"]),
    ]
    beside = Beside("1x1", 10.0, half, replace(half, p99=300.0), half, 0.06)
    found = Results("a machine", "1.2.3", "fashion-mnist", ["python -m benchmarks.overload"], 20, 60, 4000)
    found.arrangements["single"] = Measured({"1x1": peak}, {"1x1": points}, {"1x1": beside})
    return found


def test_goodput_is_compared_with_the_mean_of_both_peaks() -> None:
    found = some_results().arrangements["single"]
    peak, point = found.peaks["1x1"], found.points["1x1"][0]
    drifted = replace(peak, later=peak.rate / 2)
    assert point_ratio(drifted, point) == pytest.approx(point_ratio(peak, point) / 0.75)


def test_report_names_the_factor_that_was_reached() -> None:
    text = report.text(some_results())
    assert "| 1 x 1 | 4 | 400 of 400 | 50.0 | 0.50 | 100, 100 | 50 % | 100, 100 |  |" in text
    assert "| 1 x 1 | 7.5 (10) | 750 of 750 |" in text
    assert "1 x 1, factor 10: 76 % sent." in text
    assert "| 200 | 180 | no |" in text
    for line in text.splitlines():
        assert line.count("|") in {0, 7, 10, 13, 9, 11}, line


def test_results_survive_a_file_and_can_be_drawn(tmp_path: Path) -> None:
    some_results().write(tmp_path / "overload.json")
    found = Results.read(tmp_path / "overload.json")
    assert found == some_results()
    plot.draw(found, tmp_path / "overload.png")
    assert (tmp_path / "overload.png").read_bytes().startswith(b"\x89PNG")


def test_proxy_has_the_addresses_of_the_machine() -> None:
    found = proxy_configuration(PROXY_CONFIGURATION.read_text(), 8080, (9001, 9002))
    assert "bind 127.0.0.1:8080\n" in found
    assert "server a 127.0.0.1:9001\n" in found and "server b 127.0.0.1:9002\n" in found
    assert "resolvers" not in found and "vae-a:" not in found and "\ndefaults\n" in found


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each request in two pieces; refuse each third of a connection; close after the fifth."""
    try:
        for turn in range(1, 6):
            await reader.readuntil(b"\r\n\r\n")
            status = b"429 Too Many\r\nRetry-After: 7" if turn % 3 == 0 else b"200 OK"
            last = b"Connection: close\r\n" if turn == 5 else b""
            writer.write(b"HTTP/1.1 " + status + b"\r\n" + last + b"Content-Le")
            await writer.drain()
            await asyncio.sleep(0.001)
            writer.write(b"ngth: 4\r\n\r\nab")
            await writer.drain()
            await asyncio.sleep(0.001)
            writer.write(b"cd")
    except (OSError, EOFError):
        pass
    finally:
        writer.close()


def test_loops_see_all_answers() -> None:
    opened, closed = asyncio.run(loops())
    for found in (opened, closed):
        assert {200, 429} <= set(found.status) <= {200, 429, BROKEN, TOO_LATE}
        assert set(found.retry_after) == {7}
    assert len(opened.status) == 200


async def loops() -> tuple[Outcomes, Outcomes]:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        requests = {"a": b"GET / HTTP/1.1\r\n\r\n"}
        times = [index / 1000 for index in range(200)]
        opened = await OpenLoop(port, requests, 100).run(times, itertools.repeat("a"))
        closed = await ClosedLoop(port, requests).run(3, 0.2, itertools.repeat("a"))
        return opened, closed
