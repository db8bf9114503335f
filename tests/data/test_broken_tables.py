"""Tables that are no tables are said to be none, with the file's name."""

from __future__ import annotations

import pytest

from data import sets_making as making
from precise_shield.core.errors import DataError
from precise_shield.data.sources import SourceOptions, load_source


def test_a_csv_that_the_reader_gives_up_on_is_a_sentence(tmp_path):
    (tmp_path / "games_test.csv").write_text("x" * 200_000 + ",a,b,c,d,A\n")
    with pytest.raises(DataError, match=r"games_test.csv is no CSV \(field larger"):
        load_source("mmlu", SourceOptions(path=tmp_path))


def test_a_digit_that_is_no_number_is_no_index(tmp_path):
    path = making.mmbench(tmp_path)
    path.write_text(path.read_text().replace("\n7\t", "\n²\t", 1))
    with pytest.raises(DataError, match="index is '²', no number"):
        load_source("mmbench", SourceOptions(path=path))
