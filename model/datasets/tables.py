"""Reader of csv tables of numbers."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.data import Array
from model.datasets.arrays import Reading
from model.datasets.base import Dataset
from model.errors import DataError


class CsvFile(Dataset):
    """A csv file: a header of column names, then rows of numbers.

    The column `label`, which may hold any text, has the labels of the samples and is no column of them.
    """

    def __init__(
        self, path: Path, columns: Sequence[str] = (), exclude: Sequence[str] = (), label: str | None = None
    ) -> None:
        self.source = str(path)
        self.path = path
        with Reading(self.source, self._open):
            header = next(self._rows(), (0, []))[1]
        if not header:
            raise DataError(f"{path}: is empty; its first line must name the columns")
        if all(_number(cell) is not None for cell in header):
            raise DataError(f"{path}: has no header; its first line must name the columns")
        exclude = (*exclude, *([] if label is None else [label]))
        for name in (*exclude, *columns):
            if header.count(name) != 1:
                problem = "no column" if name not in header else "more than one column"
                raise DataError(f"{path}: has {problem} '{name}'; its columns are {', '.join(header)}")
        self.header = header
        self.columns = tuple(columns) if columns else tuple(name for name in header if name not in exclude)
        if len(set(self.columns)) != len(self.columns):
            raise DataError(f"{path}: two columns have the same name; give each its own")
        if not self.columns:
            raise DataError(f"{path}: every column is excluded; leave one in")
        self.picks = [header.index(name) for name in self.columns]
        self.shape = (len(self.columns),)
        self._count: int | None = None
        self._label = None if label is None else header.index(label)
        self._read_labels: tuple[tuple[str, ...], NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        if self._count is None:
            self._count = sum(1 for _ in self._rows()) - 1
        return self._count

    def batches(self, rows: int) -> Iterator[Array]:
        batch: list[list[float]] = []
        lines = self._rows()
        next(lines)
        for row, (line, cells) in enumerate(lines, start=1):
            batch.append(self._numbers(row, line, cells))
            if len(batch) == rows:
                yield np.array(batch, np.float32)
                batch = []
        if batch:
            yield np.array(batch, np.float32)

    def labels(self) -> NDArray[np.int64] | None:
        return None if self._label is None else self._labelled()[1]

    def label_names(self) -> tuple[str, ...] | None:
        return None if self._label is None else self._labelled()[0]

    def _labelled(self) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """Names of the labels, sorted, and the label of every row."""
        if self._read_labels is None:
            assert self._label is not None
            lines = self._rows()
            next(lines)
            cells = [self._require_width(row, *line)[self._label] for row, line in enumerate(lines, start=1)]
            names = tuple(sorted(set(cells)))
            index = {name: index for index, name in enumerate(names)}
            self._read_labels = names, np.array([index[cell] for cell in cells], np.int64)
        return self._read_labels

    def _require_width(self, row: int, line: int, cells: list[str]) -> list[str]:
        if len(cells) != len(self.header):
            raise DataError(f"{self.path}: row {row} (line {line}) has {len(cells)} cells, not {len(self.header)}")
        return cells

    def _numbers(self, row: int, line: int, cells: list[str]) -> list[float]:
        self._require_width(row, line, cells)
        numbers = []
        for name, pick in zip(self.columns, self.picks, strict=True):
            number = _number(cells[pick])
            if number is None:
                raise DataError(
                    f"{self.path}: row {row} (line {line}), column '{name}': '{cells[pick]}' is not a finite number; "
                    "fix it, or leave the column out with --exclude"
                )
            numbers.append(number)
        return numbers

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield line number and cells of every line that is not blank, starting with the header."""
        with Reading(self.source, self._open) as file:
            reader = csv.reader(line.decode("utf-8-sig") for line in file)
            try:
                for cells in reader:
                    # A single empty cell in quotes is a missing value; a line of spaces is a blank line.
                    if cells and not (len(cells) == 1 and cells[0].isspace()):
                        yield reader.line_num, [cell.strip() for cell in cells]
            except UnicodeDecodeError as error:
                raise DataError(f"line {reader.line_num + 1} is not UTF-8: {error}") from error
            except csv.Error as error:
                raise DataError(f"line {reader.line_num} is not csv: {error}") from error

    def _open(self) -> io.BufferedIOBase:
        return self.path.open("rb")


def _number(cell: str) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return None
    # A number beyond the range of float32 would become infinite.
    return number if abs(number) <= float(np.finfo(np.float32).max) else None
