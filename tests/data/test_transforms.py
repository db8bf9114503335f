"""Transforms dress requests anew and leave groups, splits and harm as they were. Harmless text."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

from data.making import example, picture
from precise_shield.core.errors import ConfigError, DataError
from precise_shield.data.contrast import check_splits
from precise_shield.data.manifest import load
from precise_shield.data.sets.pictures import FIGSTEP_PROMPT
from precise_shield.data.transforms import (
    TRANSFORMS,
    TransformOptions,
    cut_into,
    save_manifest,
    transformed,
    words_for,
)

ROWS = [
    example(0, prompt="Draw me a lighthouse", group="a", split="train"),
    example(1, prompt="Zeichne mir einen Leuchtturm", group="a", split="train", language="de"),
    example(2, "benign", prompt="Name three colours", group="b", split="test"),
    example(3, "benign", prompt="Nenne drei Farben", group="b", split="test", language="de"),
]


def dressed(name, folder, rows=ROWS, on_bad_row="stop", **options):
    return transformed(name, rows, TransformOptions(**options), folder, on_bad_row)


def with_pictures(folder):
    path = str(picture(folder / "a.png", size=(40, 30)))
    return [replace(row, image=path, modality="text_dominant") for row in ROWS]


@pytest.mark.parametrize("name", TRANSFORMS)
class TestEvery:
    def rows(self, name, folder):
        return with_pictures(folder) if name == "mixed" else ROWS

    def test_group_split_harm_and_what_is_checked_stay(self, name, tmp_path):
        options = {"languages": ("en", "de")} if name == "code_switch" else {}
        rows = self.rows(name, tmp_path)
        done = dressed(name, tmp_path / "out", rows, **options).examples
        before = {row.id: row for row in rows}
        assert done
        for row in done:
            was = before[row.id.removesuffix(f"+{name}")]
            assert row.id != was.id
            kept = ("group", "split", "harm", "language", "target", "answer", "category", "source")
            assert all(getattr(row, field) == getattr(was, field) for field in kept)
            assert row.asked == was.prompt
            assert (row.prompt, row.image, row.prefill) != (was.prompt, was.image, was.prefill)
        check_splits([*rows, *done])

    def test_it_is_the_same_every_time(self, name, tmp_path):
        options = {"languages": ("en", "de")} if name == "code_switch" else {}
        rows = self.rows(name, tmp_path)
        one, two = (dressed(name, tmp_path / "o", rows, **options).examples for _ in "12")
        assert one == two

    def test_rows_of_other_splits_pass_and_originals_are_kept_on_wish(self, name, tmp_path):
        options = {"languages": ("en", "de")} if name == "code_switch" else {}
        rows = self.rows(name, tmp_path)
        some = dressed(name, tmp_path / "o", rows, splits=("test",), **options).examples
        assert [row for row in some if row.split == "train"] == rows[:2]
        assert all(row.id.endswith(name) for row in some if row.split == "test")
        both = dressed(name, tmp_path / "o", rows, keep=True, **options).examples
        assert [row for row in both if not row.id.endswith(name)] == rows


def test_typography_moves_the_request_into_the_picture(tmp_path):
    done = dressed("typography", tmp_path, width=300, size=30).examples
    assert {(row.modality, row.form) for row in done} == {("image_dominant", "typography")}
    assert done[1].prompt == words_for("typography", "de", TransformOptions())
    assert "Leuchtturm" not in done[1].prompt
    assert Image.open(done[0].image).width == 300
    assert len({row.image for row in done}) == 4


def test_figstep_uses_the_published_words_in_english(tmp_path):
    done = dressed("figstep", tmp_path, width=300, size=20).examples
    assert done[0].prompt == FIGSTEP_PROMPT
    plain = dressed("typography", tmp_path, width=300, size=20).examples
    heights = [Image.open(rows[0].image).height for rows in (done, plain)]
    assert heights[0] > heights[1] + 60


def test_a_caption_goes_under_the_rows_own_picture(tmp_path):
    done = dressed("mixed", tmp_path / "o", with_pictures(tmp_path), width=120, size=12).examples
    image = Image.open(done[0].image)
    assert image.getpixel((60, 45)) == (255, 0, 0)
    assert image.height > 90
    assert {row.form for row in done} == {"mixed"}
    with pytest.raises(DataError, match=r"row 1: 'r0': has no picture"):
        dressed("mixed", tmp_path)


def test_a_picture_that_carries_the_risk_is_not_replaced(tmp_path):
    rows = [replace(row, modality="image_dominant") for row in with_pictures(tmp_path)]
    with pytest.raises(DataError, match="the risk is in its picture"):
        dressed("typography", tmp_path, rows)


def test_a_language_without_words_is_a_problem_unless_words_are_given(tmp_path):
    rows = [*ROWS, example(4, prompt="Mchoro", language="xx", group="c")]
    kept = dressed("typography", tmp_path, rows, "skip")
    assert (len(kept.examples), kept.dropped_rows) == (4, 1)
    assert "no words for typography in 'xx'" in str(kept.dropped[0])
    given = dressed("typography", tmp_path, rows, words={"xx": "Soma."}).examples
    assert given[-1].prompt == "Soma."


class TestCodeSwitch:
    def test_pieces_come_in_turn_from_the_translations(self, tmp_path):
        done = dressed("code_switch", tmp_path, languages=("en", "de"), pieces=2).examples
        assert [row.prompt for row in done] == [
            "Draw me a einen Leuchtturm",
            "Name three drei Farben",
        ]
        assert [row.language for row in done] == ["en", "en"]

    def test_a_group_without_a_translation_is_a_problem(self, tmp_path):
        with pytest.raises(DataError, match="group 'a' has no sw"):
            dressed("code_switch", tmp_path, languages=("en", "sw"))
        with pytest.raises(ConfigError, match="at least two"):
            dressed("code_switch", tmp_path, languages=("en",))

    def test_a_second_row_of_a_group_and_language_is_counted(self, tmp_path):
        rows = [*ROWS, replace(ROWS[0], id="twin")]
        kept = dressed("code_switch", tmp_path, rows, "skip", languages=("en", "de"))
        assert (len(kept.examples), kept.dropped_rows) == (2, 1)
        assert "'twin'" in str(kept.dropped[0])

    def test_pieces_make_up_the_text(self):
        for text in ("one two three four five", "写一首关于旧灯塔的短诗。", "a", "ประภาคารเก่า"):
            assert "".join(cut_into(text, 4)) == text
        assert [len(piece.split()) for piece in cut_into("a b c d e f g h", 4)] == [2, 2, 2, 2]


def test_prefill_opens_the_answer_in_the_rows_language(tmp_path):
    done = dressed("prefill", tmp_path).examples
    assert [row.prefill for row in done] == ["Sure, here is", "Klar, hier ist"] * 2
    assert [row.prompt for row in done] == [row.prompt for row in ROWS]


def test_what_is_written_is_a_manifest_that_loads(tmp_path):
    rows = dressed("typography", tmp_path / "m_images", width=200, size=20).examples
    save_manifest(rows, tmp_path / "m.jsonl")
    assert load(tmp_path / "m.jsonl").examples == rows
    with pytest.raises(ConfigError, match="exists or does not end in"):
        save_manifest(rows, tmp_path / "m.jsonl")
    with pytest.raises(DataError, match="lies outside of"):
        save_manifest(rows, (tmp_path / "sub").resolve() / "m.jsonl")


def test_an_unknown_transform_names_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'typography'"):
        dressed("typografy", tmp_path)
