"""Rows survive the disk, and a bad line says where it is."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precise_shield.core.errors import DataError
from precise_shield.core.records import HARMS, MODALITIES, Cell, Example, Verdict, read_rows
from precise_shield.core.records import write_rows as write

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
rows = st.builds(
    Example,
    id=words,
    language=st.just("th"),
    modality=st.sampled_from(MODALITIES),
    harm=st.sampled_from(HARMS),
    prompt=words,
    split=st.just("probe"),
    group=words,
    target=st.none() | words,
    answer=st.none() | words,
    matched=st.booleans(),
)


@given(st.lists(rows, max_size=4))
def test_rows_come_back_as_they_were(examples):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write(path, examples)
        assert list(read_rows(path, Example)) == examples
        assert len(path.read_bytes().splitlines()) == len(examples)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: not a JSON object"),
        ("[1]", "line 2: not a JSON object"),
        ('{"colour": 1}', "unknown fields ['colour']"),
        ('{"example": "a"}', "line 2"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, said):
    path = tmp_path / "v.jsonl"
    write(path, [Verdict("a", "base", "j", "safe")])
    assert len(list(read_rows(path, Verdict))) == 1
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError) as error:
        list(read_rows(path, Verdict))
    assert said in str(error.value)


def test_appending_continues_and_a_cut_off_line_is_left_out_on_demand(tmp_path):
    path = tmp_path / "v.jsonl"
    first, second = Verdict("a", "base", "j", "safe"), Verdict("b", "base", "j", "refusal")
    write(path, [first])
    write(path, [second], append=True)
    assert list(read_rows(path, Verdict)) == [first, second]
    path.write_text(path.read_text()[:-5])
    assert list(read_rows(path, Verdict, cut_off=True)) == [first]
    with pytest.raises(DataError):
        list(read_rows(path, Verdict))


@given(st.sampled_from(["en", "zh-tw"]), st.sampled_from(MODALITIES), st.sampled_from(HARMS))
def test_a_cell_reads_back(language, modality, harm):
    cell = Cell(language, modality, harm)
    assert Cell.parse(str(cell)) == cell


@pytest.mark.parametrize(
    "text", ["", "en", "en/text", "en/sound/harmful", "en/text/bad", "a/b/c/d"]
)
def test_what_is_no_cell_is_refused(text):
    with pytest.raises(DataError, match="language/modality/harm"):
        Cell.parse(text)


def test_an_example_knows_its_cell():
    row = Example("a", "en", "text", "benign", "?", "test", "g")
    assert row.cell == Cell("en", "text", "benign")
