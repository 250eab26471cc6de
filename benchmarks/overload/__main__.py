"""Measure the goodput of the service at one, four and ten times its capacity: `make overload`.

Clients that wait for their answers find the peak of each cell. Then requests arrive at multiples of its rate, whether
or not earlier ones have been answered. Small requests are also measured beside endless large ones. The service is
arranged in three ways: one worker on a core of its own, two workers, and two services behind the proxy. The report is
`../OVERLOAD.md`, with `../overload.png`; `../overload.json` keeps the figures.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

from app import __version__
from benchmarks.overload import cells, plot, report
from benchmarks.overload.arrangements import ARRANGEMENTS, Deployment, deployed
from benchmarks.overload.measure import LARGE, SMALL, Bench, NothingDone, Options, Peak
from benchmarks.overload.results import Measured, Results, point_ratio
from model import checkpoint, machine

BESIDE = "beside"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20, help="least duration of a point (default: 20)")
    parser.add_argument("--max-seconds", type=float, default=120, help="its largest, for slow cells (default: 120)")
    parser.add_argument("--cells", nargs="+", choices=(*cells.CELLS, BESIDE), help="cells to measure (default: all)")
    parser.add_argument("--factors", nargs="+", type=float, default=[1, 4, 10], help="multiples of the peak")
    parser.add_argument("--arrangement", choices=(*ARRANGEMENTS, "all"), default="all")
    parser.add_argument("--limit", type=float, default=60, help="seconds after which an answer counts as late")
    parser.add_argument("--connections", type=int, default=4000, help="most connections of an open loop")
    parser.add_argument("--model", default="fashion-mnist")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1], help="folder of the report")
    parser.add_argument("--keep", action="store_true", help="keep the other cells of the last run in the report")
    return parser.parse_args()


class Run:
    """The measurements of the command line, written after each cell."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.options = Options(given.seconds, given.max_seconds, given.limit, given.connections)
        self.results = Results(machine.describe(), __version__, given.model)
        given.out.mkdir(parents=True, exist_ok=True)
        stored = given.out / "overload.json"
        if given.keep and stored.exists():
            earlier = Results.read(stored)
            if not earlier.same_service(self.results):
                sys.exit(f"{stored} is of another machine, version or model; run without --keep")
            self.results = earlier
        self.results.seconds, self.results.limit = given.seconds, given.limit
        self.results.connections = given.connections
        self.results.commands.append(shlex.join(["python", "-m", "benchmarks.overload", *sys.argv[1:]]))

    def write(self) -> None:
        folder: Path = self.given.out
        self.results.write(folder / "overload.json")
        (folder / "OVERLOAD.md").write_text(report.text(self.results))
        plot.draw(self.results, folder / "overload.png")

    def measure(self, arrangement: str, deployment: Deployment, encoded: dict[str, bytes]) -> None:
        """Measure the cells of one arrangement."""
        bench = Bench(deployment, encoded, self.options)
        found = self.results.arrangements.setdefault(arrangement, Measured())
        wanted = [cell for cell in ARRANGEMENTS[arrangement] if self.given.cells is None or cell in self.given.cells]
        for cell in wanted:
            found.failed.pop(cell, None)
            found.points[cell] = []
            try:
                self.measure_cell(cell, found, bench)
            except NothingDone as error:
                print(f"{cells.name_of(cell)}: {error}", flush=True)
                found.failed[cell] = str(error)
            self.write()
        if arrangement == "single" and (self.given.cells is None or BESIDE in self.given.cells):
            for cell in SMALL:
                found.beside[cell] = pair = bench.beside(self.peak(found, bench, cell))
                p99 = [f"{loop.p99 or 0:,.0f} ms" for loop in (pair.alone, pair.beside)]
                print(f"{cell}: p99 {p99[0]} alone, {p99[1]} beside {LARGE}", flush=True)
                self.write()

    def measure_cell(self, cell: str, found: Measured, bench: Bench) -> None:
        """Measure the peak of a cell and its points."""
        peak = found.peaks[cell] = bench.peak(cell, self.costs(found, bench) if cell == cells.MIX else {})
        print(f"{cells.name_of(cell)}: peak {peak.rate:.4g}/s, {peak.clients} clients", flush=True)
        for factor in self.given.factors:
            point = bench.point(peak, factor)
            found.points[cell].append(point)
            figures = point.figures
            print(
                f"  {report.factor(point)}: {figures.rate:.4g}/s done, goodput / peak "
                f"{point_ratio(peak, point):.3f}, p99 {figures.p99 or 0:,.0f} ms, {figures.refused:,} x 429, "
                f"{figures.sent:,} of {figures.requests:,} sent, "
                f"{figures.no_connection:,} without a connection, {figures.elapsed:.0f} s",
                flush=True,
            )
            self.write()
        found.peaks[cell] = bench.repeat(peak)

    def peak(self, found: Measured, bench: Bench, cell: str) -> Peak:
        """Return the peak of a cell, from a brief search if it has not been measured."""
        return found.peaks.get(cell) or bench.peak(cell, {}, brief=True)

    def costs(self, found: Measured, bench: Bench) -> dict[str, float]:
        """Return the seconds per request of all kinds: of this arrangement, else of the first, else measured now."""
        single = self.results.arrangements.get("single", Measured()).peaks
        known = found.peaks if cells.KINDS.keys() <= found.peaks.keys() else single
        if not cells.KINDS.keys() <= known.keys():
            known = {kind: self.peak(found, bench, kind) for kind in cells.KINDS}
        return {kind: 1 / known[kind].rate for kind in cells.KINDS}


def main() -> None:
    given = parse()
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:
        sys.exit("this needs two cores: one for the service, one for the generator")
    run = Run(given)
    shape = checkpoint.load(Path(given.model)).vae.config.data.public_shape
    encoded = {name: kind.encoded(shape) for name, kind in cells.KINDS.items()}
    for arrangement in ARRANGEMENTS if given.arrangement == "all" else (given.arrangement,):
        with deployed(arrangement, given.model, available) as deployment:
            run.measure(arrangement, deployment, encoded)
    run.write()


if __name__ == "__main__":
    main()
