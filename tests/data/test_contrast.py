"""What is compared is there, what must stay apart is apart, and a hash says what was used."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.making import example, picture
from precise_shield.core.errors import DataError, EmptyCellError
from precise_shield.core.moments import FOLDS
from precise_shield.core.records import Cell
from precise_shield.data.contrast import (
    by_cell,
    check_splits,
    fingerprint,
    fold_of,
    require_cells,
    split_of,
)

EN, EN_BENIGN = Cell("en", "text", "harmful"), Cell("en", "text", "benign")


def test_every_example_is_in_its_cell_and_in_no_other():
    rows = [example(0), example(1, harm="benign"), example(2, language="de"), example(3)]
    cells = by_cell(rows)
    assert cells[EN] == [rows[0], rows[3]]
    assert cells[EN_BENIGN] == [rows[1]]
    assert sum(map(len, cells.values())) == len(rows)
    assert list(cells) == sorted(cells)


def test_too_few_examples_are_named_with_what_there_is():
    rows = [example(0), example(1)]
    assert require_cells(rows, [EN], minimum=2) == {EN: rows}
    with pytest.raises(EmptyCellError) as error:
        require_cells(rows, [EN, EN_BENIGN], minimum=3)
    lacking = "cells with fewer than 3 examples: en/text/benign (0), en/text/harmful (2)."
    assert lacking in str(error.value)
    assert "There is: en/text/harmful (2)" in str(error.value)


def test_folds_are_even_known_values_and_the_same_in_another_process():
    assert [fold_of(f"g{n}") for n in range(6)] == [fold_of(f"g{n}", FOLDS) for n in range(6)]
    counts = Counter(fold_of(f"g{n}") for n in range(16_000))
    assert sorted(counts) == list(range(16))
    assert all(850 < count < 1150 for count in counts.values())
    code = "from precise_shield.data.contrast import fold_of; print(fold_of('dragon'))"
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={"PYTHONHASHSEED": "7"},
    )  # fmt: skip
    assert int(other.stdout) == fold_of("dragon") == 0xC  # first hex digit of sha256("fold:dragon")


@given(st.text())
def test_a_group_has_one_split(group):
    shares = {"probe": 0.5, "test": 0.5}
    assert split_of(group, shares) == split_of(group, shares)
    assert split_of(group, {"train": 1.0}) == "train"


def test_splits_get_their_fractions_and_depend_on_the_seed():
    shares = {"probe": 0.25, "train": 0.0, "validation": 0.25, "test": 0.5}
    names = [f"g{n}" for n in range(8000)]
    counts = Counter(split_of(name, shares) for name in names)
    assert counts["train"] == 0
    assert counts["probe"] == pytest.approx(2000, abs=150)
    assert counts["test"] == pytest.approx(4000, abs=150)
    assert [split_of(n, shares, 1) for n in names] != [split_of(n, shares) for n in names]


@pytest.mark.parametrize("shares", [{}, {"test": 0.5}, {"test": 1.5, "train": -0.5}])
def test_fractions_have_to_sum_to_one(shares):
    with pytest.raises(DataError, match="sum to 1"):
        split_of("g", shares)


class TestFingerprint:
    def test_order_and_folder_do_not_matter(self, tmp_path):
        def rows(folder):
            image = str(picture(folder / "a.png"))
            return [example(0), example(1, modality="image_dominant", image=image)]

        one, two = rows(tmp_path / "x"), rows(tmp_path / "y")
        assert one != two
        assert fingerprint(one) == fingerprint(reversed(two))

    @pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(example())])
    def test_every_field_matters(self, tmp_path, field):
        odd = {
            "matched": True,
            "image": str(picture(tmp_path / "b.png")),
            "modality": "image_dominant",
            "harm": "benign",
            "split": "test",
            "form": "mixed",
        }
        changed = dataclasses.replace(example(0), **{field: odd.get(field, "other")})
        assert fingerprint([example(0)]) != fingerprint([changed])

    def test_the_bytes_of_a_picture_matter(self, tmp_path):
        path = picture(tmp_path / "a.png")
        row = example(0, modality="image_dominant", image=str(path))
        before = fingerprint([row])
        assert fingerprint([row]) == before
        picture(path, colour="blue", size=(7, 4))
        assert fingerprint([row]) != before

    def test_a_lost_picture_is_a_sentence(self):
        row = example(0, modality="image_dominant", image="/nowhere.png")
        with pytest.raises(DataError, match="cannot be read"):
            fingerprint([row])


class TestSplits:
    def test_a_cut_group_is_refused(self):
        rows = [example(0), example(1, group="g0", split="test", language="de")]
        with pytest.raises(DataError, match=r"1 groups are in more than one split.*'g0'"):
            check_splits(rows)
        together = [rows[0], dataclasses.replace(rows[1], split="probe")]
        check_splits(together)

    def test_an_id_used_twice_is_refused(self):
        with pytest.raises(DataError, match="1 ids occur more than once"):
            check_splits([example(0), example(0)])
