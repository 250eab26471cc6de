"""Estimated durations of model calls, from the warm-up and from the calls since. Knows no threads, HTTP or VAE."""

from typing import NamedTuple

#: Maximum seconds of measured work in one batch, unless a single row takes longer.
SLICE_SECONDS = 0.05
#: Factor by which the duration of a slice may change before its number of rows does: a request whose rows are cut into
#: more slices than when it was admitted takes longer than it was estimated to take.
SLICE_TOLERANCE = 1.3
#: Factor by which a single call may exceed its estimate and count in full: beyond, the process was held up.
MAX_SLOWNESS = 4.0
#: Seconds without a call after which a refusal halves what its estimate exceeds that of the warm-up by.
RELAX_SECONDS = 10.0
#: Weight of all earlier calls in the scale of a call, after one more.
COST_DECAY = 0.9
#: Partly filled calls for each full call of small requests, where requests of several kinds are mixed.
PARTIAL_CALLS = 4


class PlannedCall(NamedTuple):
    """A model call that a request will make, `times` times one after the other, on this many rows each time."""

    call: str
    rows: int
    times: int = 1


#: All calls of one request, in order.
Plan = tuple[PlannedCall, ...]


class CallCost:
    """Duration of one model call: (overhead + rows x seconds per row) x scale.

    Overhead and seconds per row are those of the warm-up. The scale follows the calls since.

    >>> cost = CallCost(batch_rows=64, overhead=0.002, per_row=0.001)
    >>> cost.slice_rows, round(cost.price(100), 3)
    (36, 0.106)
    >>> cost.record(10, 0.024, now=1.0)  # twice as long as estimated
    >>> cost.slice_rows, round(cost.seconds(10), 3)
    (17, 0.024)
    """

    __slots__ = ("_batch_rows", "_estimated", "_measured", "_used", "overhead", "per_row", "scale", "slice_rows")

    def __init__(self, batch_rows: int, overhead: float = 0.0, per_row: float = 0.0) -> None:
        self._batch_rows = batch_rows
        self.overhead, self.per_row, self.scale = overhead, per_row, 1.0
        self._estimated = self._measured = 0.0  # decaying sums of seconds
        self._used = 0.0  # when it was called last, or relaxed
        self.slice_rows = batch_rows
        self._cut()

    def record(self, rows: int, seconds: float, now: float) -> None:
        """Add the duration of a finished call."""
        self._used = now
        if not self.per_row:  # never measured before
            self.per_row = seconds / rows
        self._measured = COST_DECAY * self._measured + min(seconds, MAX_SLOWNESS * self.seconds(rows))
        self._estimated = COST_DECAY * self._estimated + self.overhead + rows * self.per_row
        self._rescale()

    def relax(self, now: float) -> bool:
        """Halve the excess over the warm-up after a time without calls; return True if there was one.

        Otherwise what was slow once would be refused for ever.
        """
        if self.scale <= 1 or now <= self._used + RELAX_SECONDS:
            return False
        self._used = now
        self._measured = (self._measured + self._estimated) / 2
        self._rescale()
        return True

    def _rescale(self) -> None:
        self.scale = self._measured / self._estimated
        if not SLICE_SECONDS / SLICE_TOLERANCE**2 <= self.slice_seconds <= SLICE_SECONDS:
            self._cut()

    def _cut(self) -> None:
        """Set the rows of a slice."""
        if per_row := self.per_row * self.scale:
            rows = int((SLICE_SECONDS / SLICE_TOLERANCE - self.overhead * self.scale) / per_row)
            self.slice_rows = max(1, min(self._batch_rows, rows))

    def seconds(self, rows: int) -> float:
        """Seconds of one call."""
        return (self.overhead + rows * self.per_row) * self.scale

    def price(self, rows: int) -> float:
        """Seconds of the calls that rows take if they are cut into slices and no other rows fill the last one."""
        return (-(-rows // self.slice_rows) * self.overhead + rows * self.per_row) * self.scale

    def shared_price(self, rows: int) -> float:
        """Seconds of these rows as part of calls that other requests fill."""
        calls = min(-(-rows // self.slice_rows), PARTIAL_CALLS * rows / self.slice_rows)
        return (calls * self.overhead + rows * self.per_row) * self.scale

    @property
    def slice_seconds(self) -> float:
        """Seconds of a full slice."""
        return self.seconds(self.slice_rows)


class Costs:
    """Costs of all calls, by name. A call that was never measured costs nothing until it has been."""

    def __init__(self, batch_rows: int) -> None:
        self.batch_rows = batch_rows
        self._calls: dict[str, CallCost] = {}
        #: Seconds of the longest slice of any call.
        self.slice_seconds = 0.0
        #: Changes whenever a cost does.
        self.version = 0

    def __getitem__(self, call: str) -> CallCost:
        cost = self._calls.get(call)
        if cost is None:
            cost = self._calls[call] = CallCost(self.batch_rows)
        return cost

    def measured(self, call: str, overhead: float, per_row: float) -> None:
        """Set the cost of a call that has been measured before the first request."""
        self._calls[call] = CallCost(self.batch_rows, overhead, per_row)
        self._update()

    def record(self, call: str, rows: int, seconds: float, now: float) -> None:
        """Add the duration of a finished call."""
        self[call].record(rows, seconds, now)
        self._update()

    def relax(self, plan: Plan, now: float) -> None:
        """Relax the costs of calls that have not been made for a while, see `CallCost.relax`."""
        for planned in plan:
            if self[planned.call].relax(now):
                self._update()

    def _update(self) -> None:
        self.version += 1
        self.slice_seconds = max(cost.slice_seconds for cost in self._calls.values())
