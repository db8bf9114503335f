"""Text in pictures: every script is drawn, shaped and broken as it is written."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from precise_shield.core.errors import DataError
from precise_shield.data.typeset import fonts
from precise_shield.data.typeset.fonts import font_file, load_font
from precise_shield.data.typeset.lines import clusters, is_rtl, runs, units, wrap
from precise_shield.data.typeset.picture import text_picture, under

SENTENCES = {
    "en": "Write a short poem about the old lighthouse and 3 cats.",
    "ru": "Напиши короткое стихотворение о старом маяке.",
    "ar": "اكتب قصيدة قصيرة عن المنارة القديمة.",
    "zh": "写一首关于旧灯塔的短诗。",
    "ja": "古い灯台について短い詩を書いてください。",
    "ko": "오래된 등대에 대한 짧은 시를 써 주세요.",
    "ne": "पुरानो प्रकाशस्तम्भको बारेमा छोटो कविता लेख्नुहोस्।",
    "bn": "পুরানো বাতিঘর সম্পর্কে একটি ছোট কবিতা লিখুন।",
    "th": "เขียนบทกวีสั้น ๆ เกี่ยวกับประภาคารเก่า",
    "te": "పాత దీపస్తంభం గురించి ఒక చిన్న కవిత రాయండి.",
    "vi": "Hãy viết một bài thơ ngắn về ngọn hải đăng cũ.",
}


def ink(image):
    return np.asarray(image.convert("L")) < 128


@pytest.mark.parametrize("language", SENTENCES)
def test_every_script_leaves_ink_inside_the_margins_and_other_words_other_ink(language):
    image = text_picture(SENTENCES[language], language, width=400, size=32)
    drawn = ink(image)
    assert drawn.mean() > 0.01
    assert not drawn[:, :20].any()
    assert not drawn[:, -20:].any()
    assert not drawn[-5:].any()
    other = text_picture(SENTENCES[language][::-1], language, width=400, size=32)
    assert image.size != other.size or (drawn != ink(other)).any()


def test_arabic_letters_join_and_indic_conjuncts_form():
    """Shaped text is narrower, and looks other, than its letters one by one."""
    for language, word in (("ar", "بيت"), ("ne", "क्ष"), ("bn", "ক্ষ")):
        apart = "\u200c".join(word)
        shown = (text_picture(text, language, width=300, size=60) for text in (word, apart))
        joined, loose = map(ink, shown)
        assert joined.any(axis=0).sum() < loose.any(axis=0).sum(), language


def test_arabic_starts_at_the_right_and_english_at_the_left():
    for language, text in (("ar", "بيت"), ("en", "house")):
        columns = np.flatnonzero(ink(text_picture(text, language, width=400, size=32)).any(axis=0))
        assert (columns.mean() > 200) == (language == "ar")


def test_a_character_is_drawn_as_its_country_draws_it():
    one, other = (ink(text_picture("門骨直角", tag, width=400, size=60)) for tag in ("zh", "ja"))
    assert (one != other).any()


def test_a_line_is_cut_where_the_script_changes_and_neutrals_take_the_paragraph():
    assert [(run.text, run.rtl) for run in runs("see منارة now")] == [
        ("see ", False),
        ("منارة", True),
        (" ", False),
        ("now", False),
    ]
    assert [(run.text, run.rtl) for run in runs("قل OK.", rtl=True)] == [
        ("قل ", True),
        ("OK", False),
        (".", True),
    ]
    assert [run.text for run in runs("灯台とは")] == ["灯台とは"]
    assert is_rtl("12 منارة OK")
    assert not is_rtl("OK منارة")
    assert wrap("بيت\n1.", lambda line: True) == [("بيت", True), ("1.", True)]
    assert wrap("house\n1.", lambda line: True) == [("house", False), ("1.", False)]


def test_no_line_begins_with_closing_punctuation_or_a_mark():
    text = "写一首诗，再写它的守护人。" * 3
    lines = [line for line, _ in wrap(text, lambda line: len(line) <= 5)]
    assert "".join(lines) == text
    assert all(line[0] not in "，。" for line in lines)
    thai = "เขียนบทกวีสั้นเกี่ยวกับตัวแมว"
    assert "".join(clusters(thai)) == thai
    assert all(part[0] not in "ัีู้่็" and part[-1] not in "เแ" for part in clusters(thai))
    assert units("one two") == ["one ", "two"]


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab เกีย写。منا \n", max_size=40), st.integers(1, 12))
def test_wrapping_loses_nothing_but_spaces_at_breaks(text, width):
    lines = [line for line, _ in wrap(text, lambda line: len(line) <= width)]
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_text_shrinks_to_a_given_height_or_is_refused():
    assert text_picture(SENTENCES["en"] * 3, "en", width=300, height=300, size=48).size == (
        300,
        300,
    )
    with pytest.raises(DataError, match="does not fit 64 x 64"):
        text_picture(SENTENCES["en"] * 30, "en", width=64, height=64)


class TestFonts:
    def test_a_font_of_the_users_comes_first_and_must_exist(self, tmp_path):
        thai = font_file("THAI", {})
        assert font_file("LATIN", {"latin": str(thai)}) == thai
        assert font_file("LATIN", {"default": str(thai)}) == thai
        with pytest.raises(DataError, match="no font file at"):
            font_file("LATIN", {"latin": str(tmp_path / "gone.ttf")})
        bad = tmp_path / "bad.ttf"
        bad.write_text("no font")
        with pytest.raises(DataError, match="is no font"):
            load_font(bad, 20, "en")

    def test_a_character_that_the_font_lacks_is_named_rather_than_drawn_as_a_box(self):
        latin = {"thai": str(font_file("LATIN", {}))}
        with pytest.raises(DataError, match=r"has no 'ก' \(U\+0E01\)"):
            text_picture("กา", "th", fonts=latin)

    def test_without_any_font_it_says_what_to_install(self, monkeypatch):
        monkeypatch.setattr(fonts, "find_spec", lambda name: None)
        monkeypatch.setattr(fonts, "_system_fonts", dict)
        fonts._installed.cache_clear()
        with pytest.raises(DataError, match=r"precise-shield\[fonts\].*fonts-noto-cjk"):
            font_file("CJK", {})
        fonts._installed.cache_clear()

    @pytest.mark.parametrize("script", fonts.FONTS)
    def test_the_fonts_extra_covers_every_script_of_the_table(self, script):
        choice = fonts.FONTS[script]
        pytest.importorskip(choice.package)
        assert choice.package in str(font_file(script, {}))


def test_a_caption_stands_under_its_picture():
    both = under(Image.new("RGB", (100, 50), "red"), text_picture("lamp", "en", width=200, size=20))
    assert both.width == 200
    assert both.getpixel((100, 50)) == (255, 0, 0)
    assert ink(both)[100:].any()
