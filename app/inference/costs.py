"""Estimated durations of model calls, from the warm-up and from the calls since. Knows no threads, HTTP or VAE."""

from collections.abc import Iterable
from typing import NamedTuple

#: Maximum seconds of measured work in one batch, unless a single row takes longer.
SLICE_SECONDS = 0.05
#: Factor by which the duration of a slice may change before its number of rows does: a request whose rows are cut into
#: more slices than when it was admitted takes longer than it was estimated to take.
SLICE_TOLERANCE = 1.3
#: Factor by which a single call may exceed its estimate and count in full: beyond, the process was held up.
MAX_SLOWNESS = 4.0
#: Seconds without a call after which a refusal has its cost measured again: otherwise what was slow once would be
#: refused for ever, and so never be found to be fast.
STALE_SECONDS = 10.0
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


class Size(NamedTuple):
    """Estimated work of a request."""

    rows: int  # of the largest of its calls
    seconds: float  # of all calls, computed alone
    shared_seconds: float  # of all calls, where other requests share them
    large: bool  # more than a batch of work
    slice_seconds: float  # of the longest slice of its calls
    planned: dict[str, int]  # rows by call
    prices: dict[str, tuple[float, float]]  # seconds and shared seconds of a row, by call


class CallCost:
    """Duration of one model call: (overhead + rows x seconds per row) x scale.

    Overhead and seconds per row are those of the warm-up. The scale follows the calls since.

    >>> cost = CallCost(batch_rows=64, overhead=0.002, per_row=0.001)
    >>> cost.slice_rows, round(cost.price(100), 3)
    (36, 0.106)
    >>> for _ in range(50):
    ...     cost.record(10, 0.024, now=1.0)  # twice as long as estimated
    >>> cost.slice_rows, round(cost.seconds(10), 3)
    (17, 0.024)
    """

    __slots__ = ("_batch_rows", "_estimated", "_measured", "_used", "overhead", "per_row", "scale", "slice_rows")

    def __init__(self, batch_rows: int, overhead: float = 0.0, per_row: float = 0.0, now: float = 0.0) -> None:
        self._batch_rows = batch_rows
        self.overhead, self.per_row, self.scale = overhead, per_row, 1.0
        self._used = now  # when it was called last
        self.slice_rows = batch_rows
        self._cut()
        self._estimated = self._measured = self.slice_seconds  # decaying sums of seconds

    def record(self, rows: int, seconds: float, now: float) -> None:
        """Add the duration of a finished call."""
        self._used = now
        if not self.per_row:  # never measured before
            self.per_row = seconds / rows
            self._cut()
        self._measured = COST_DECAY * self._measured + min(seconds, MAX_SLOWNESS * self.seconds(rows))
        self._estimated = COST_DECAY * self._estimated + self.overhead + rows * self.per_row
        self._rescale()

    def is_stale(self, now: float) -> bool:
        """Return True if no call has been made for so long that the cost may be wrong by now."""
        return now > self._used + STALE_SECONDS

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

    def shared_price(self, rows: int, requests: float) -> float:
        """Seconds of these rows where the calls are shared with other requests.

        Args:
            requests: number of such requests that go through their calls together.
        """
        calls = -(-rows // self.slice_rows) * min(1.0, PARTIAL_CALLS / requests)
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
        #: Seconds of the longest slice of any call that admitted requests have made.
        self.slice_seconds = 0.0
        #: Calls that are to be measured again.
        self.stale: set[str] = set()
        self._in_use: set[str] = set()
        #: Changes whenever a cost does.
        self.version = 0

    def __getitem__(self, call: str) -> CallCost:
        cost = self._calls.get(call)
        if cost is None:
            cost = self._calls[call] = CallCost(self.batch_rows)
        return cost

    def size(self, plan: Plan) -> Size:
        """Estimate the work of a request."""
        # Requests with this plan that can go through their calls together: as many as fill a slice.
        requests = max(1.0, min(self[call].slice_rows / rows for call, rows, _ in plan))
        seconds = shared_seconds = 0.0
        planned, prices, slices = dict[str, int](), dict[str, tuple[float, float]](), dict[str, float]()
        for call, rows, times in plan:
            cost = self[call]
            price, shared = cost.price(rows), cost.shared_price(rows, requests)
            seconds, shared_seconds = seconds + price * times, shared_seconds + shared * times
            planned[call] = planned.get(call, 0) + rows * times
            prices[call] = price / rows, shared / rows
            slices[call] = cost.slice_seconds
        # A tolerance for the rounding errors of the sums.
        large = seconds > sum(slices.values()) * (1 + 1e-9)
        rows = max(rows for _, rows, _ in plan)
        return Size(rows, seconds, shared_seconds, large, max(slices.values()), planned, prices)

    def measured(self, call: str, overhead: float, per_row: float, now: float = 0.0) -> None:
        """Set the cost of a call that has been measured apart from requests."""
        self._calls[call] = CallCost(self.batch_rows, overhead, per_row, now)
        self._update()

    def record(self, call: str, rows: int, seconds: float, now: float) -> None:
        """Add the duration of a finished call."""
        self[call].record(rows, seconds, now)
        self._update()

    def use(self, calls: Iterable[str]) -> None:
        """Count the slices of these calls in `slice_seconds`: an admitted request makes them."""
        if not self._in_use.issuperset(calls):
            self._in_use.update(calls)
            self._update()

    def doubt(self, plan: Plan, now: float) -> bool:
        """Have calls measured again that may be why a request is refused and have not been made for a while.

        Returns:
            True if calls of this plan are among them.
        """
        planned = {call.call for call in plan}
        for name, cost in self._calls.items():
            if cost.is_stale(now) and (cost.slice_seconds > SLICE_SECONDS or name in planned):
                self.stale.add(name)
        return not self.stale.isdisjoint(planned)

    def _update(self) -> None:
        self.version += 1
        self.slice_seconds = max((self[name].slice_seconds for name in self._in_use), default=0.0)
