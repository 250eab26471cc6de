"""Results of all measurements: kept as JSON, so that an interrupted run loses nothing."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.overload.measure import Beside, Peak, Point
from benchmarks.overload.outcomes import Figures, goodput_ratio


@dataclass
class Measured:
    """The measurements of one arrangement, by cell."""

    peaks: dict[str, Peak] = field(default_factory=dict)
    points: dict[str, list[Point]] = field(default_factory=dict)
    beside: dict[str, Beside] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)  # why a cell has no figures

    def ratio(self, point: Point) -> float:
        """Goodput over the peak of the same cell; up to capacity, over what was offered."""
        return point_ratio(self.peaks[point.cell], point)


def point_ratio(peak: Peak, point: Point) -> float:
    """Return the work done per second over what was possible."""
    found = point.figures
    return goodput_ratio(found.work_rate, found.sent_work / found.elapsed, peak.work_rate, point.factor)


@dataclass
class Results:
    """All measurements, and what they were made with."""

    machine: str
    version: str
    model: str
    commands: list[str] = field(default_factory=list)
    seconds: float = 0.0
    limit: float = 0.0
    connections: int = 0
    arrangements: dict[str, Measured] = field(default_factory=dict)

    def same_service(self, other: "Results") -> bool:
        """Return True if the measurements of both may stand in one table."""
        return (self.machine, self.version, self.model) == (other.machine, other.version, other.model)

    @classmethod
    def read(cls, path: Path) -> "Results":
        stored = json.loads(path.read_text())
        stored["arrangements"] = {name: _measured(found) for name, found in stored["arrangements"].items()}
        return cls(**stored)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def _measured(stored: dict[str, Any]) -> Measured:
    points = {cell: [_point(point) for point in found] for cell, found in stored["points"].items()}
    peaks = {cell: Peak(**_with_figures(peak, "figures")) for cell, peak in stored["peaks"].items()}
    names = "alone", "beside", "large"
    beside = {cell: Beside(**_with_figures(found, *names)) for cell, found in stored["beside"].items()}
    return Measured(peaks, points, beside, stored["failed"])


def _point(stored: dict[str, Any]) -> Point:
    kinds = {kind: Figures(**found) for kind, found in stored["kinds"].items()}
    return Point(**{**_with_figures(stored, "figures"), "kinds": kinds})


def _with_figures(stored: dict[str, Any], *names: str) -> dict[str, Any]:
    return {**stored, **{name: Figures(**stored[name]) for name in names}}
