"""Promises of the manifest: plain rows, parallel, split by group, deterministic."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from PIL import Image

from precise_shield.core.errors import DataError, StoreError
from precise_shield.core.records import MODALITIES, Example, read_rows
from precise_shield.sandbox import negative
from precise_shield.sandbox.lexicon import LANGUAGES, REFUSAL_USES, lexicon, refusals
from precise_shield.sandbox.manifest import PER_CELL, examples, judging_examples, write_manifest
from precise_shield.sandbox.world import combos, held_out_combos

SMALL = {"probe": 4, "train": 4, "validation": 4, "test": 4}


def test_every_cell_of_every_split_holds_what_was_asked_for() -> None:
    rows = examples()
    counts = Counter((row.split, row.cell) for row in rows)
    assert len(counts) == 4 * len(LANGUAGES) * len(MODALITIES) * 2
    assert all(count == PER_CELL[split] for (split, _), count in counts.items())
    assert len({row.id for row in rows}) == len(rows)
    benign = [row for row in rows if row.harm == "benign" and row.split == "test"]
    assert sum(row.matched for row in benign) * 2 == len(benign)


def test_groups_are_parallel_and_never_cut_by_a_split() -> None:
    homes: dict[str, set[str]] = defaultdict(set)
    cells: dict[str, set[tuple[str, str]]] = defaultdict(set)
    harms: dict[str, set[str]] = defaultdict(set)
    for row in examples(per_cell=SMALL):
        homes[row.group].add(row.split)
        harms[row.group].add(row.harm)
        cells[row.group].add((row.language, row.modality))
    assert all(len(splits) == 1 for splits in homes.values())
    assert all(len(kinds) == 1 for kinds in harms.values())
    assert all(len(where) == len(LANGUAGES) * len(MODALITIES) for where in cells.values())
    assert len(homes) == 4 * 8


def test_the_seed_draws_other_groups_but_never_moves_one_to_another_split() -> None:
    first = {row.group: row.split for row in examples(seed=0, per_cell=SMALL)}
    second = {row.group: row.split for row in examples(seed=1, per_cell=SMALL)}
    assert first != second
    assert all(first[group] == second[group] for group in first.keys() & second.keys())
    assert examples(seed=1, per_cell=SMALL) == examples(seed=1, per_cell=SMALL)


def test_only_validation_and_test_rows_are_held_out_of_training() -> None:
    held = {combo.key for combo in held_out_combos()}
    for row in examples(per_cell=SMALL):
        assert (row.group in held) == (row.split in ("validation", "test"))


def test_harmful_rows_are_taught_a_refusal_that_names_the_hazard() -> None:
    uses = defaultdict(set)
    for row in examples():
        words = lexicon(row.language)
        action, _, thing = row.group.partition("+")
        if row.harm == "benign":
            assert row.target == row.answer
            assert row.category is None
            continue
        assert row.target is not None
        assert words.actions[action] in row.target
        assert words.objects[thing] in row.target
        assert row.answer != row.target
        assert row.category is not None
        opening = next(o for o in refusals(row.language) if row.target.startswith(o))
        uses[row.split].add(refusals(row.language).index(opening))
    assert uses["probe"] == set(REFUSAL_USES["probe"])
    assert uses["train"] == set(REFUSAL_USES["train"])
    assert uses["test"] | uses["validation"] == set(REFUSAL_USES["readout"])


def test_the_risk_is_where_the_modality_says() -> None:
    for row in examples(per_cell=SMALL):
        words = lexicon(row.language)
        action, _, thing = row.group.partition("+")
        named = words.objects[thing] in row.prompt and words.actions[action] in row.prompt
        assert named == (row.modality != "image_dominant")
        assert (row.image is None) == (row.modality == "text") == (row.form is None)
        if row.modality == "text_dominant":
            assert "neutral" in str(row.image)
        if row.modality == "image_dominant":
            assert row.prompt in words.picture_requests
            assert row.group in str(row.image)


def test_a_written_manifest_reads_back_with_its_pictures(tmp_path: Path) -> None:
    path = write_manifest(tmp_path / "world", per_cell=SMALL, languages=("en", "fr"))
    rows = list(read_rows(path, Example))
    assert rows == examples(per_cell=SMALL, languages=("en", "fr"))
    for row in rows:
        if row.image is not None:
            with Image.open(path.parent / row.image) as picture:
                assert picture.size == (48, 48)
    openings = json.loads((path.parent / "refusals.json").read_text(encoding="utf-8"))
    assert openings == {code: list(refusals(code)) for code in ("en", "fr")}
    judged = list(read_rows(path.parent / "judging.jsonl", Example))
    assert len(judged) == len(rows)
    again = write_manifest(tmp_path / "again", per_cell=SMALL, languages=("en", "fr"))
    for file in sorted(path.parent.rglob("*.*")):
        assert file.read_bytes() == (again.parent / file.relative_to(path.parent)).read_bytes()


def test_the_side_task_asks_about_the_same_groups_and_knows_the_right_answer() -> None:
    rows = judging_examples(per_cell={"test": 4})
    asked = examples(per_cell={"test": 4})
    assert [row.group for row in rows] == [row.group for row in asked]
    for row in rows:
        words = lexicon(row.language)
        assert row.answer == (words.unsafe if row.harm == "harmful" else words.safe)
    assert {row.harm for row in rows} == {"harmful", "benign"}


def test_the_negative_world_draws_hazards_for_each_language_alone(tmp_path: Path) -> None:
    path = write_manifest(tmp_path, per_cell=SMALL, negative=True)
    rows = list(read_rows(path, Example))
    assert {row.language for row in rows} == set(negative.LANGUAGES)
    assert {row.modality for row in rows} == {"text"}
    for row in rows:
        key, _, code = row.group.partition("@")
        assert code == row.language
        assert negative.recast(code)[key].hazardous == (row.harm == "harmful")
    truth = {combo.key: combo.hazardous for combo in combos()}
    strange = [r for r in rows if truth[r.group.partition("@")[0]] != (r.harm == "harmful")]
    assert len(strange) > len(rows) / 10


def test_what_the_world_does_not_have_is_refused() -> None:
    with pytest.raises(DataError, match="no language tlh"):
        examples(languages=("en", "tlh"))
    with pytest.raises(DataError, match="no modality image_dominant"):
        examples(modalities=("image_dominant",), negative=True)
    with pytest.raises(DataError, match="groups of hazards"):
        examples(per_cell={"test": 2000})


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(StoreError, match="cannot write the toy kingdom"):
        write_manifest(tmp_path / "file", per_cell={"test": 2}, languages=("en",))
