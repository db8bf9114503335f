"""Each source reads files of the shape its authors publish; the rows here are made up."""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from dataclasses import replace

import pytest

from data import sets_making
from data.making import jsonl, values
from precise_shield.core.errors import ConfigError, DataError
from precise_shield.data.contrast import check_splits
from precise_shield.data.sources import SOURCES, SourceOptions, load_source

KINDS = [
    *[
        (kind, "safe")
        for kind in ("homonyms", "definitions", "privacy_public", "privacy_fictional")
    ],
    *[
        (kind, "unsafe")
        for kind in ("contrast_homonyms", "contrast_definitions", "contrast_privacy")
    ],
]


def table(path, header, rows, bom=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8-sig" if bom else "utf-8", newline="") as out:
        csv.writer(out).writerows([header, *rows])
    return path


def multijail(folder):
    languages = ["en", "zh", "it", "vi", "ar", "ko", "th", "bn", "sw", "jv"]
    rows = [
        [
            n,
            "someone",
            "['Theft', 'Animal abuse']" if n else "[]",
            *(f"{n} in {c}" for c in languages),
        ]
        for n in range(5)
    ]
    return table(folder / "MultiJail.csv", ["id", "source", "tags", *languages], rows, bom=True)


def xstest(folder):
    rows = [
        [f"{7 * a + b}", f"{kind} {b},\nwith a comma", kind, label, "tease", ""]
        for a, (kind, label) in enumerate(KINDS)
        for b in range(7)
    ]
    header = ["id", "prompt", "type", "label", "focus", "note"]
    return table(folder / "xstest_prompts.csv", header, rows)


def advbench(folder):
    rows = [[f"Tease dragon {n}", "Sure, here is how"] for n in range(60)]
    return table(folder / "harmful_behaviors.csv", ["goal", "target"], rows)


def multiq(folder):
    rows = [
        [f"gpt-{n}", language, f"{language} question {n}?", "none" if n % 2 else "art"]
        for n in range(4)
        for language in ("en", "sw", "zh-CN", "mni-Mtei")
    ]
    return table(folder / "MultiQ.csv", ["id", "language", "prompt", "domain"], rows)


def polyrefuse(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", 30), ("val", 4)):
        for kind in ("harmful", "harmless"):
            for language in ("en", "de", "zh"):
                middle = "translated_" if language != "en" else ""
                if (kind, language) == ("harmless", "en"):
                    middle = f"{count}_sampled_"
                rows = [
                    {"instruction": f"{kind} {part} {n} {language}", "category": "x" if n else None}
                    for n in range(count)
                ]
                name = f"{kind}_{part}_{middle}{language}.json"
                (folder / name).write_text(json.dumps(rows), encoding="utf-8")
    return folder


MAKERS = sets_making.MAKERS | {
    "multijail": multijail,
    "xstest": xstest,
    "advbench": advbench,
    "multiq": multiq,
    "polyrefuse": polyrefuse,
    "manifest": lambda folder: jsonl(folder, values(0), values(1, language="de", group="g0")),
}
ROWS = sets_making.ROWS | {
    "multijail": 50,
    "xstest": 49,
    "advbench": 60,
    "multiq": 16,
    "polyrefuse": 204,
    "manifest": 2,
}


def read(name, folder, **options):
    folder.mkdir(parents=True, exist_ok=True)
    given = sets_making.OPTIONS.get(name, {}) | options
    return load_source(name, SourceOptions(path=MAKERS[name](folder), **given))


def test_every_source_is_tested():
    assert set(MAKERS) <= set(SOURCES)
    assert {name for name in SOURCES if not name.startswith("sandbox")} == set(MAKERS)


@pytest.mark.parametrize("name", MAKERS)
class TestEverySource:
    def test_no_row_is_lost_and_no_group_is_cut(self, name, tmp_path):
        loaded = read(name, tmp_path)
        assert len(loaded.examples) == ROWS[name]
        assert loaded.dropped == []
        check_splits(loaded.examples)
        assert len({row.id for row in loaded.examples}) == ROWS[name]
        harms = defaultdict(set)
        for row in loaded.examples:
            harms[row.group].add(row.harm)
            assert row.target is None or name == "safety_tuned_llamas"
            assert row.prompt == row.prompt.strip() != ""
        assert all(len(found) == 1 for found in harms.values())

    def test_ids_and_splits_are_the_same_every_time(self, name, tmp_path):
        one, two = (read(name, tmp_path / folder).examples for folder in "ab")
        assert one
        assert [replace(row, image=None) for row in one] == [
            replace(row, image=None) for row in two
        ]

    def test_one_split_takes_all(self, name, tmp_path):
        assert {row.split for row in read(name, tmp_path, split="train").examples} == {"train"}

    def test_groups_can_be_dealt_by_hash(self, name, tmp_path):
        shares = {"probe": 0.5, "test": 0.5}
        rows = read(name, tmp_path, fractions=shares).examples
        check_splits(rows)
        assert {row.split for row in rows} <= {"probe", "test"}
        if len({row.group for row in rows}) >= 20:
            assert {row.split for row in rows} == {"probe", "test"}
            other = read(name, tmp_path, fractions=shares, seed=1).examples
            assert [row.split for row in other] != [row.split for row in rows]

    def test_some_splits_can_be_kept_after_the_dealing(self, name, tmp_path):
        shares = {"probe": 0.5, "test": 0.5}
        rows = read(name, tmp_path, fractions=shares).examples
        split = rows[0].split
        kept = read(name, tmp_path, fractions=shares, splits=(split,)).examples
        assert kept == [row for row in rows if row.split == split]

    def test_a_language_can_be_chosen_and_one_that_is_absent_is_named(self, name, tmp_path):
        rows = read(name, tmp_path, languages=("en",)).examples
        assert {row.language for row in rows} == {"en"}
        with pytest.raises(DataError, match="has no xx; it has"):
            read(name, tmp_path, languages=("en", "xx"))

    def test_a_harm_can_be_chosen(self, name, tmp_path):
        rows = read(name, tmp_path).examples
        harm = rows[0].harm
        chosen = read(name, tmp_path, harm=harm).examples
        assert chosen == [row for row in rows if row.harm == harm] != []

    def test_a_limit_keeps_whole_groups(self, name, tmp_path):
        rows, few = read(name, tmp_path).examples, read(name, tmp_path, limit=1).examples
        kept = {row.group for row in few}
        assert few == [row for row in rows if row.group in kept]
        counts = Counter({(row.group, row.split, row.harm) for row in few})
        places = Counter((split, harm) for _, split, harm in counts)
        assert set(places) == {(row.split, row.harm) for row in rows}
        assert set(places.values()) == {1}

    def test_a_missing_file_says_what_to_get(self, name, tmp_path):
        with pytest.raises(DataError, match=r"Download|Give the path|Ask its authors"):
            load_source(
                name,
                SourceOptions(path=tmp_path / "nowhere", **sets_making.OPTIONS.get(name, {})),
            )

    def test_two_ways_to_split_are_refused(self, name, tmp_path):
        with pytest.raises(DataError, match="both split and fractions"):
            read(name, tmp_path, split="test", fractions={"test": 1.0})


@pytest.mark.parametrize("name", ["multijail", "xstest", "advbench", "multiq"])
class TestTables:
    def test_file_or_folder_is_the_same(self, name, tmp_path):
        rows = read(name, tmp_path).examples
        assert load_source(name, SourceOptions(path=tmp_path)).examples == rows

    def test_another_table_is_refused(self, name, tmp_path):
        path = table(tmp_path / "x.csv", ["a", "b"], [[1, 2]])
        with pytest.raises(DataError, match="lacks the columns"):
            load_source(name, SourceOptions(path=path))

    def test_a_cut_off_record_is_refused(self, name, tmp_path):
        path = MAKERS[name](tmp_path)
        path.write_bytes(path.read_bytes() + b"cut\n")
        if name == "advbench":
            path.write_bytes(path.read_bytes() + b"a,b,c\n")
        with pytest.raises(DataError, match=r"record \d+: \d fields, header"):
            load_source(name, SourceOptions(path=path))

    def test_bytes_that_are_no_text_are_refused(self, name, tmp_path):
        path = tmp_path / "x.csv"
        path.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(DataError, match="no UTF-8 CSV"):
            load_source(name, SourceOptions(path=path))

    def test_there_are_no_parts(self, name, tmp_path):
        with pytest.raises(DataError, match="no parts"):
            read(name, tmp_path, parts=("train",))


def test_an_unknown_source_names_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'xstest'"):
        load_source("xtest", SourceOptions(path=tmp_path))


def test_multijail_groups_translations_and_keeps_tags(tmp_path):
    rows = read("multijail", tmp_path).examples
    assert {(row.harm, row.split, row.modality) for row in rows} == {("harmful", "test", "text")}
    group = [row for row in rows if row.group == "multijail:3"]
    assert {row.language for row in group} == {
        "en",
        "zh",
        "it",
        "vi",
        "ar",
        "ko",
        "th",
        "bn",
        "sw",
        "jv",
    }
    assert {row.prompt for row in group} == {f"3 in {row.language}" for row in group}
    assert group[0].category == "Theft; Animal abuse"
    assert rows[0].id.startswith("multijail:0:")


def test_a_blank_translation_stops_or_is_left_out_and_counted(tmp_path):
    path = multijail(tmp_path)
    path.write_text(path.read_text(encoding="utf-8").replace("2 in th", " "), encoding="utf-8")
    with pytest.raises(DataError, match="row 4: the th prompt is blank"):
        load_source("multijail", SourceOptions(path=path))
    loaded = load_source("multijail", SourceOptions(path=path, on_bad_row="skip"))
    assert len(loaded.examples) == 49
    assert len(loaded.dropped) == 1


def test_a_request_given_twice_is_a_problem(tmp_path):
    path = table(
        tmp_path / "MultiQ.csv",
        ["id", "language", "prompt", "domain"],
        [["a", "en", "x?", "art"]] * 2,
    )
    with pytest.raises(DataError, match="'a' in en is given twice"):
        load_source("multiq", SourceOptions(path=path))


def test_xstest_safe_prompts_are_matched_benign_and_contrasts_harmful(tmp_path):
    rows = read("xstest", tmp_path).examples
    assert Counter((row.harm, row.matched) for row in rows) == {
        ("benign", True): 28,
        ("harmful", False): 21,
    }
    assert all((row.harm == "harmful") == row.category.startswith("contrast_") for row in rows)
    assert {row.split for row in rows} == {"test"}


def test_xstest_twins_stay_on_one_side_of_a_split(tmp_path):
    rows = read("xstest", tmp_path, fractions={"train": 0.5, "test": 0.5}).examples
    split = {(row.category, row.prompt.split(",")[0].split()[-1]): row.split for row in rows}
    for n in "0123456":
        assert split["homonyms", n] == split["contrast_homonyms", n]
        assert split["definitions", n] == split["contrast_definitions", n]
        three = {
            split[kind, n] for kind in ("privacy_public", "privacy_fictional", "contrast_privacy")
        }
        assert len(three) == 1
    assert len(set(split.values())) == 2


def test_xstest_with_another_label_is_a_problem(tmp_path):
    path = xstest(tmp_path)
    path.write_text(path.read_text().replace("homonyms,safe", "homonyms,maybe", 1))
    with pytest.raises(DataError, match="label is 'maybe'"):
        load_source("xstest", SourceOptions(path=path))


def test_advbench_never_reads_the_affirmative_target(tmp_path):
    rows = read("advbench", tmp_path).examples
    assert all("Sure" not in str(row) for row in rows)
    assert Counter(row.split for row in rows).keys() == {"probe", "train"}
    assert rows[0].id == "advbench:0:en"


def test_multiq_tags_are_lower_case_and_ordinary(tmp_path):
    rows = read("multiq", tmp_path).examples
    assert {row.language for row in rows} == {"en", "sw", "zh-cn", "mni-mtei"}
    assert {(row.harm, row.matched) for row in rows} == {("benign", False)}
    assert {row.category for row in rows} == {None, "art"}


class TestPolyRefuse:
    def test_published_parts_go_where_the_docstring_says(self, tmp_path):
        rows = read("polyrefuse", tmp_path).examples
        by_part = defaultdict(set)
        for row in rows:
            by_part[row.prompt.split()[1]].add(row.split)
        assert by_part == {"train": {"probe", "train"}, "val": {"validation"}}
        assert {row.matched for row in rows} == {False}

    def test_rows_are_parallel_but_for_the_benign_chinese(self, tmp_path):
        groups = defaultdict(set)
        for row in read("polyrefuse", tmp_path, parts=("val",)).examples:
            groups[row.group].add((row.language, row.prompt.split()[2]))
        assert groups["polyrefuse:val:harmful:2"] == {("en", "2"), ("de", "2"), ("zh", "2")}
        assert groups["polyrefuse:val:benign:2"] == {("en", "2"), ("de", "2")}
        assert groups["polyrefuse:val:benign:zh:2"] == {("zh", "2")}

    def test_files_of_unequal_length_are_no_translations(self, tmp_path):
        folder = polyrefuse(tmp_path)
        path = folder / "harmful_val_translated_de.json"
        path.write_text(json.dumps(json.loads(path.read_text())[1:]))
        with pytest.raises(DataError, match="differ in their number of rows"):
            load_source("polyrefuse", SourceOptions(path=folder))

    @pytest.mark.parametrize("content", ["{", "{}x", "[1]", '[{"a": 1}]', '[{"instruction": 3}]'])
    def test_a_broken_file_is_named(self, tmp_path, content):
        folder = polyrefuse(tmp_path)
        (folder / "harmful_val_en.json").write_text(content)
        with pytest.raises(DataError, match=r"harmful_val_en\.json"):
            load_source("polyrefuse", SourceOptions(path=folder))

    def test_an_unknown_part_and_an_empty_folder_are_named(self, tmp_path):
        with pytest.raises(DataError, match=r"no part dev .*there are \['train', 'val'\]"):
            read("polyrefuse", tmp_path / "a", parts=("dev",))
        (tmp_path / "b").mkdir()
        with pytest.raises(DataError, match="holds no file such as"):
            load_source("polyrefuse", SourceOptions(path=tmp_path / "b"))


def test_a_manifest_keeps_its_splits_and_counts_what_it_drops(tmp_path):
    path = jsonl(tmp_path, values(0), values(1, harm="x"), values(2, split="test"))
    loaded = load_source("manifest", SourceOptions(path=path, on_bad_row="skip"))
    assert [row.split for row in loaded.examples] == ["probe", "test"]
    assert loaded.dropped_rows == 1
    with pytest.raises(DataError):
        load_source("manifest", SourceOptions(path=path))
