"""Tables as csv."""

from pathlib import Path
from typing import Any

import pytest

from model import datasets
from model.config import VectorData
from model.datasets import open_dataset
from model.errors import DataError
from tests.support.checkpoints import refusal
from tests.support.datasets import vector


class TestCsv:
    @staticmethod
    def of(folder: Path, text: str | bytes, like: VectorData | None = None, **options: Any) -> datasets.Dataset:
        (folder / "x.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
        return open_dataset(str(folder / "x.csv"), like, **options)

    def test_a_bad_cell_is_named_by_row_line_and_column(self, tmp_path: Path) -> None:
        dataset = self.of(tmp_path, "a,b\n1,2\n\n3,4\n5,n/a\n")
        with pytest.raises(DataError) as error:
            dataset.load()
        assert "row 3 (line 5), column 'b': 'n/a'" in refusal(error) and "--exclude" in refusal(error)
        assert self.of(tmp_path, "a,b\n1,2\n\n3,4\n5,n/a\n", exclude=["b"]).load().tolist() == [[1], [3], [5]]

    @pytest.mark.parametrize("cell", ["", "nan", "inf", "-inf", "1e39", "1,5", "0x10"])
    def test_values_out_of_the_range_of_float32_are_refused(self, cell: str, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"row 1 \(line 2\), column 'a'"):
            self.of(tmp_path, f'a,b\n"{cell}",2\n').load()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "empty"),
            ("\n\n", "empty"),
            ("1,2\n3,4\n", "no header"),
            ("a,a\n1,2\n", "same name"),
            (b"a,b\n1,\xff\n", "line 2 is not UTF-8"),
            ("a,b\n1,2\n3\n", "row 2 (line 3) has 1 cells, not 2"),
            ("a,b\n1,2,3\n", "row 1 (line 2) has 3 cells, not 2"),
            ("a,b\n", "no samples"),
            ("a,b\n1,2\n" + '"' + "x" * 200_000 + '",2\n', "line 3"),
        ],
    )
    def test_files_that_are_not_tables_are_refused(self, text: str | bytes, message: str, tmp_path: Path) -> None:
        with pytest.raises(DataError) as error:
            self.of(tmp_path, text).load()
        assert message in refusal(error) and "x.csv" in refusal(error)

    def test_columns_are_chosen_and_ordered_by_the_model(self, tmp_path: Path) -> None:
        text = "name,b,c,a\nx,2,3,1\ny,5,6,4\n"
        assert self.of(tmp_path, text, vector("a", "b")).load().tolist() == [[1, 2], [4, 5]]
        with pytest.raises(DataError, match="no column 'd'; its columns are name, b, c, a"):
            self.of(tmp_path, text, vector("a", "d"))
        with pytest.raises(DataError, match="more than one column 'a'"):
            self.of(tmp_path, "a,a,b\n1,2,3\n", vector("a", "b"))

    def test_other_columns_may_hold_anything(self, tmp_path: Path) -> None:
        text = "a,what,what\n1,x,y\n"
        assert self.of(tmp_path, text, vector("a")).load().tolist() == [[1]]

    def test_a_column_to_exclude_must_be_there(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no column 'c'"):
            self.of(tmp_path, "a,b\n1,2\n", exclude=["c"])

    def test_excluding_every_column_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="column"):
            self.of(tmp_path, "a,b\n1,2\n", exclude=["a", "b"])

    @pytest.mark.parametrize(
        "text",
        [
            b"\xef\xbb\xbfa,b\n1,2\n",
            b"a,b\r\n1,2\r\n",
            b"a , b\n 1 , 2 \n",
            b'"a","b"\n"1","2"\n',
            b"a,b\n1,2",
            b"\na,b\n\n1,2\n  \n",
        ],
    )
    def test_every_dialect_of_csv_is_read(self, text: bytes, tmp_path: Path) -> None:
        dataset = self.of(tmp_path, text)
        assert (dataset.columns, dataset.load().tolist(), len(dataset)) == (("a", "b"), [[1, 2]], 1)

    def test_an_empty_cell_of_a_single_column_is_not_a_blank_line(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"row 2 \(line 3\), column 'a'"):
            self.of(tmp_path, 'a\n1\n""\n').load()
