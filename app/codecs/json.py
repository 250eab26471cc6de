"""Decoding of JSON bodies: nested arrays of numbers, or base64 images."""

import itertools
import operator
import threading
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from app.codecs.errors import Invalid, Malformed
from app.codecs.images import HoldMemory, decode_base64, hold_any
from app.codecs.spec import Floats, InputSpec

try:
    import simdjson
except ImportError:  # there is no wheel for every Python version
    simdjson = None  # type: ignore[assignment]

#: JSON must not begin with a byte order mark (RFC 8259, 8.1), but simdjson accepts it.
UTF8_BOM = b"\xef\xbb\xbf"
#: Largest body, in bytes, for which a thread reuses its parser. A parser keeps several times the memory of the largest
#: body it has parsed.
MAX_REUSED_PARSER_BYTES = 1 << 17


class RowLabels:
    """The labels of rows, which a body may bring beside them: `{"inputs": [...], "labels": ["cat", "dog"]}`.

    `values` are those of the body, one a row; None if it brings none.
    """

    KEY = "labels"

    def __init__(self) -> None:
        self.values: list[str] | None = None

    def read(self, values: Any, rows: int) -> None:
        """Take the labels of a body. Raise `Invalid` unless they are one string for each row."""
        if not isinstance(values, list) or len(values) != rows:
            raise Invalid.at(self.KEY, f"expected a list of {rows:,} strings, one for each row")
        for index, value in enumerate(values):
            if not isinstance(value, str):
                raise Invalid.at(f"{self.KEY}[{index}]", f"expected a string, got {_type_name(value)}")
        self.values = values


def decode_json(body: bytes, spec: InputSpec, hold: HoldMemory = hold_any, labels: RowLabels | None = None) -> Floats:
    """Decode `{"inputs": [...]}`: nested arrays of numbers, or base64 images if the model takes images.

    Args:
        labels: takes the labels of the rows; None if the call has no use for them.

    Raises:
        Malformed: the body is not JSON.
        Invalid: a key is unknown or missing, or a shape, type or value is wrong.
        TooLarge: too many rows or pixels.
    """
    numbers = parse_numbers(body, spec)
    if numbers is not None:
        return spec.check(numbers, integers_are_bytes=False)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise Invalid.at("body", f'expected an object, got {_type_name(document)}; send {{"{spec.name}": [...]}}')
    known = (spec.name,) if labels is None else (spec.name, labels.KEY)
    for key in document:
        if key not in known:
            only = "the only key is" if labels is None else "the keys are"
            raise Invalid.at(f"body.{key:.60}", f"unknown key; {only} {', '.join(map(repr, known))}")
    if spec.name not in document:
        raise Invalid.at(f"body.{spec.name}", f'missing; send {{"{spec.name}": [...]}}')
    rows = document[spec.name]
    if not isinstance(rows, list):
        raise Invalid.at(spec.name, f"expected a list of rows, got {_type_name(rows)}; send one row as a list of one")
    spec.check_count(len(rows))
    if labels is not None and labels.KEY in document:
        labels.read(document[labels.KEY], len(rows))
    if spec.image is not None and isinstance(rows[0], str):
        return decode_base64(rows, spec, hold)
    return spec.check(_convert_lists(rows, spec), integers_are_bytes=False)


class _ThreadParser(threading.local):
    """One simdjson parser for each thread: a parser holds one document at a time."""

    def __init__(self) -> None:
        self.parser = simdjson.Parser() if simdjson else None


_thread = _ThreadParser()


def parse_numbers(body: bytes, spec: InputSpec) -> NDArray[np.float64] | None:
    """Parse lists of numbers, rows x `spec.shape`, without an object for each number; None for every other body."""
    if simdjson is None or body.startswith(UTF8_BOM):
        return None
    parser: Any = _thread.parser if len(body) <= MAX_REUSED_PARSER_BYTES else simdjson.Parser()
    try:
        document = parser.parse(body)
        rows = document[spec.name]
        count = len(rows)
        if len(document) != 1 or not 0 < count <= spec.max_rows:
            return None
        level = [rows]
        for axis in spec.shape:
            level = list(itertools.chain.from_iterable(level))
            if set(map(len, level)) != {axis}:
                return None
        # as_buffer flattens lists at any depth, so a list in place of a number has to be ruled out by counting.
        lists = count * sum(itertools.accumulate(spec.shape[:-1], operator.mul, initial=1)) + 1
        if body.count(b"[") != lists:
            return None
        return np.frombuffer(rows.as_buffer(of_type="d"), np.float64).reshape(count, *spec.shape)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError):
        return None  # _convert_lists finds the place of the error


def _convert_lists(rows: list[Any], spec: InputSpec) -> NDArray[np.float64]:
    """Convert nested lists to an array, rows x one of `spec.shapes`. Raise `Invalid` at the first wrong item."""
    shape = spec.shapes[-1] if _depth(rows[0]) == len(spec.shapes[-1]) else spec.shape
    for index, row in enumerate(rows):
        _check_item(row, shape, f"{spec.name}[{index}]", spec)
    return np.array(rows, dtype=np.float64)


def _depth(value: Any) -> int:
    depth = 0
    while isinstance(value, list) and value:
        value, depth = value[0], depth + 1
    return depth


def _check_item(value: Any, shape: tuple[int, ...], place: str, spec: InputSpec) -> None:
    if shape and isinstance(value, list) and len(value) == shape[0]:
        for index, item in enumerate(value):
            _check_item(item, shape[1:], f"{place}[{index}]", spec)
    elif shape or isinstance(value, bool) or not isinstance(value, int | float):
        expected = f"a list of length {shape[0]}" if shape else "a number"
        actual = f"length {len(value)}" if shape and isinstance(value, list) else _type_name(value)
        raise Invalid.at(place, f"expected {expected}, got {actual}; {spec.name} are {spec.describe()}")


def _type_name(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
