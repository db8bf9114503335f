"""What each of the field's sets means by its columns, on small files of the published shape."""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import replace

import pytest
from PIL import Image

from data import sets_making as making
from precise_shield.core.errors import DataError
from precise_shield.data.contrast import check_splits
from precise_shield.data.sets.pictures import FIGSTEP_PROMPT
from precise_shield.data.sources import SourceOptions, load_source


def read(name, folder, **options):
    folder.mkdir(parents=True, exist_ok=True)
    given = making.OPTIONS.get(name, {}) | options
    return load_source(name, SourceOptions(path=making.MAKERS[name](folder), **given))


class TestLingua:
    def test_where_the_risk_is_and_what_kind_of_picture(self, tmp_path):
        rows = read("lingua_safetybench", tmp_path).examples
        kinds = Counter((row.modality, row.form) for row in rows)
        assert kinds == {
            ("image_dominant", "visual"): 6,
            ("image_dominant", "typography"): 6,
            ("image_dominant", "mixed"): 6,
            ("text_dominant", None): 9,
        }
        assert {row.language for row in rows} == {"en", "zh", "no"}
        assert {row.category for row in rows} == {"Toy Theft"}
        assert all(Image.open(row.image).size == (6, 4) for row in rows)

    def test_a_group_holds_all_languages_and_forms_of_a_request(self, tmp_path):
        groups = defaultdict(set)
        for row in read("lingua_safetybench", tmp_path).examples:
            groups[row.group].add((row.language, row.form))
        assert len(groups["lingua_safetybench:image:Toy Theft:1"]) == 9
        assert len(groups["lingua_safetybench:text:Toy Theft:1"]) == 3

    def test_parts_are_forms_and_text(self, tmp_path):
        rows = read("lingua_safetybench", tmp_path, parts=("mixed", "text")).examples
        assert {row.form for row in rows} == {"mixed", None}

    @pytest.mark.parametrize("start", ["bundle_data", "."])
    def test_paths_are_read_from_the_published_folder_or_from_the_root(self, start, tmp_path):
        folder = making.lingua(tmp_path)
        (folder / "bundle_data").rename(folder / "elsewhere")
        with pytest.raises(DataError, match="is no regular file"):
            load_source("lingua_safetybench", SourceOptions(path=folder))
        for form in (folder / "elsewhere").iterdir():
            (folder / start).mkdir(exist_ok=True)
            form.rename(folder / start / form.name)
        rows = load_source("lingua_safetybench", SourceOptions(path=folder)).examples
        assert len(rows) == making.ROWS["lingua_safetybench"]

    def test_unequal_lists_are_no_translations(self, tmp_path):
        folder = making.lingua(tmp_path)
        path = folder / "2-Text-Dominant Risk" / "Norwegian" / "Toy Theft.json"
        path.write_text(json.dumps(json.loads(path.read_text())[1:]))
        with pytest.raises(DataError, match=r"text/Toy Theft differs in its number of rows"):
            load_source("lingua_safetybench", SourceOptions(path=folder))

    def test_a_picture_outside_is_a_problem_of_its_row(self, tmp_path):
        folder = making.lingua(tmp_path / "data")
        making.picture(tmp_path / "secret.png")
        path = folder / "2-Text-Dominant Risk" / "English" / "Toy Theft.json"
        path.write_text(path.read_text().replace("p.png", "../../../secret.png", 1))
        with pytest.raises(DataError, match=r"row 1: image .* leads out of the data's folder"):
            load_source("lingua_safetybench", SourceOptions(path=folder))
        kept = load_source("lingua_safetybench", SourceOptions(path=folder, on_bad_row="skip"))
        assert (len(kept.examples), kept.dropped_rows) == (26, 1)


class TestAdvBench:
    def test_files_by_language_say_what_columns_say(self, tmp_path):
        rows = read("advbench_x", tmp_path / "a").examples
        folder = tmp_path / "b"
        for language in ("en", "zh", "ne"):
            texts = [row.prompt for row in rows if row.language == language]
            making.dump(folder / f"{language}.json", {"safety": texts})
        listed = load_source("advbench_x", SourceOptions(path=folder)).examples
        assert {row.id: row for row in listed} == {row.id: row for row in rows}

    def test_no_translation_of_a_trained_request_can_be_tested(self, tmp_path):
        """AdvBench-x shares AdvBench's groups, so that a run with both stops where they cross."""
        table = making.table(
            tmp_path / "harmful_behaviors.csv",
            ["goal", "target"],
            [[f"{n}", "x"] for n in range(24)],
        )
        english = load_source("advbench", SourceOptions(path=table, split="train")).examples
        many = read("advbench_x", tmp_path / "x").examples
        with pytest.raises(DataError, match="24 groups are in more than one split"):
            check_splits([*english, *many])
        check_splits([*english, *(replace(row, split="train") for row in many)])


class TestXSafety:
    def test_names_of_folders_and_files_are_put_right(self, tmp_path):
        rows = read("xsafety", tmp_path).examples
        assert {row.language for row in rows} == {"en", "es", "ru"}
        kinds = {"Mental Health": 12, "Crimes And Illegal Activities": 6}
        assert Counter(row.category for row in rows) == kinds

    def test_a_file_of_another_length_is_not_tied_to_the_others(self, tmp_path):
        folder = making.xsafety(tmp_path)
        path = folder / "ru" / "Mental_Health.csv"
        path.write_text(path.read_text().split("\n", 1)[1])
        rows = load_source("xsafety", SourceOptions(path=folder)).examples
        assert {row.group for row in rows if row.id.endswith("Mental_Health:ru:1:ru")} == {
            "xsafety:Mental_Health:ru:1"
        }
        shares = {"train": 0.5, "test": 0.5}
        with pytest.raises(DataError, match="ru/Mental_Health has 3 rows, English 4"):
            load_source("xsafety", SourceOptions(path=folder, fractions=shares))


def test_jailbreakbench_twins_go_to_one_split_and_targets_are_never_read(tmp_path):
    rows = read("jailbreakbench", tmp_path, fractions={"train": 0.5, "test": 0.5}).examples
    split = {(row.harm, row.prompt.split()[-1]): row.split for row in rows}
    for n in range(12):
        assert split["harmful", str(n)] == split["benign", str(n)]
    assert len(set(split.values())) == 2
    assert {(row.harm, row.matched) for row in rows} == {("harmful", False), ("benign", True)}
    assert "Sure" not in str(rows)


def test_harmbench_puts_the_context_first_and_chooses_functional_categories(tmp_path):
    rows = read("harmbench", tmp_path).examples
    by_id = {row.id: row for row in rows}
    page = by_id["harmbench:page:en"]
    assert page.prompt == "A page\non teasing\n\n---\n\nSummarise how to tease"
    assert by_id["harmbench:song:en"].category is None
    chosen = read("harmbench", tmp_path, parts=("standard",)).examples
    assert [row.id for row in chosen] == ["harmbench:tease_dragon:en"]
    with pytest.raises(DataError, match="no part optimised"):
        read("harmbench", tmp_path, parts=("optimised",))


def test_or_bench_has_matched_benign_prompts_and_a_toxic_part(tmp_path):
    rows = read("or_bench", tmp_path, parts=("80k", "toxic")).examples
    assert Counter((row.harm, row.matched) for row in rows) == {
        ("benign", True): 9,
        ("harmful", False): 4,
    }
    for part in ("train", "val", "test"):
        name = f"or_bench_hard_{part}.json"
        making.dump(tmp_path / "dealt" / name, [{"category": "toys", "instruction": f"{part}?"}])
    dealt = load_source("or_bench", SourceOptions(path=tmp_path / "dealt")).examples
    assert {row.prompt: row.split for row in dealt}["val?"] == "validation"
    assert {row.prompt: row.split for row in dealt}["train?"] in ("probe", "train")


def test_safety_tuned_llamas_bring_refusals_as_targets_and_test_sets_bring_none(tmp_path):
    rows = read("safety_tuned_llamas", tmp_path).examples
    taught = [row for row in rows if row.target]
    assert {row.split for row in taught} <= {"probe", "train"}
    assert [row.target for row in taught] == [f"No, {n}." for n in range(8)]
    assert taught[1].prompt == "Tease 1\nx"
    tested = {(row.group.split(":")[1], row.harm, row.matched) for row in rows if not row.target}
    assert tested == {
        ("I-Alpaca", "benign", False),
        ("I-PhysicalSafetySafe", "benign", True),
        ("I-MaliciousInstructions", "harmful", False),
        ("Q-Harm", "harmful", False),
    }


class TestMossBench:
    def test_questions_are_matched_benign_and_contrasts_harmful_with_their_own_pictures(
        self, tmp_path
    ):
        rows = read("mossbench", tmp_path, parts=("questions", "contrast")).examples
        assert Counter((row.harm, row.matched) for row in rows) == {
            ("benign", True): 3,
            ("harmful", False): 3,
        }
        where = {row.id: row.image for row in rows}
        assert where["mossbench:contrast:2:en"].endswith("contrast_images/2.jpg")
        assert where["mossbench:contrast:3:en"].endswith(["mossbench", "images/3.jpg"][1])
        assert where["mossbench:2:en"].endswith("/images/2.jpg")

    def test_a_question_without_its_picture_stops_or_is_counted(self, tmp_path):
        folder = making.mossbench(tmp_path)
        (folder / "images" / "2.jpg").unlink()
        with pytest.raises(DataError, match=r"row 2: picture .* is no regular file"):
            load_source("mossbench", SourceOptions(path=folder))
        kept = load_source("mossbench", SourceOptions(path=folder, on_bad_row="skip"))
        assert (len(kept.examples), kept.dropped_rows) == (2, 1)


def test_mm_safetybench_asks_of_drawn_pictures_otherwise_than_of_written_ones(tmp_path):
    rows = read("mm_safetybench", tmp_path).examples
    assert {(row.form, row.prompt.split()[-2]) for row in rows} == {
        ("visual", "drawn"),
        ("mixed", "written"),
        ("typography", "written"),
    }
    assert {row.request for row in rows} == {"q"}
    groups = Counter(row.group for row in rows)
    assert set(groups.values()) == {3}
    chosen = read("mm_safetybench", tmp_path, parts=("TYPO",)).examples
    assert {row.form for row in chosen} == {"typography"}


def test_figstep_asks_the_published_words_and_reads_sentences_with_commas(tmp_path):
    rows = read("figstep", tmp_path).examples
    shown = [row for row in rows if row.image]
    assert {(row.prompt, row.form, row.harm) for row in shown} == {
        (FIGSTEP_PROMPT, "typography", "harmful")
    }
    assert [row.request for row in shown] == [f"How to tease {n}?" for n in range(4)]
    benign = [row.asked for row in rows if row.harm == "benign"]
    assert benign == ["Ways to knit a scarf", "Plants, animals, stars"]
    text = read("figstep", tmp_path, parts=("safebench", "text")).examples
    assert set(Counter(row.group for row in text).values()) == {2}


class TestUtility:
    def test_a_choice_is_a_question_lettered_lines_and_what_to_answer(self, tmp_path):
        first = read("mmlu", tmp_path, parts=("games",)).examples[0]
        assert first.prompt == (
            "What is 0, roughly?\nA. 1\nB. 2\nC. 3\nD. 4\n"
            "Answer with the letter of the right option."
        )
        assert first.answer == "A"

    def test_a_copy_of_mmlu_with_a_header_and_numbered_answers_says_the_same(self, tmp_path):
        letters = read("mmlu", tmp_path, parts=("games",)).examples
        rows = [["question", "A", "B", "C", "D", "answer"]]
        rows += [[f"What is {n}, roughly?", "1", "2", "3", "4", str(n)] for n in range(4)]
        making.table(tmp_path / "copy" / "test" / "games_test.csv", None, rows)
        numbered = load_source("mmlu", SourceOptions(path=tmp_path / "copy")).examples
        said = [[(row.id, row.prompt, row.answer) for row in each] for each in (letters, numbered)]
        assert said[0] == said[1]
        making.table(tmp_path / "bad" / "games_test.csv", None, [*rows, ["Q?", *"1234", "4"]])
        with pytest.raises(DataError, match="a letter from A to D"):
            load_source("mmlu", SourceOptions(path=tmp_path / "bad"))

    @pytest.mark.parametrize("name", ["mgsm", "mmlu", "global_mmlu", "xcopa", "mm_vet", "mmbench"])
    def test_every_utility_row_is_benign_and_can_be_checked(self, name, tmp_path):
        rows = read(name, tmp_path).examples
        assert {(row.harm, row.matched, row.split) for row in rows} == {("benign", False, "test")}
        assert all(row.answer for row in rows)

    def test_numbers_have_no_thousands_separator(self, tmp_path):
        assert [row.answer for row in read("mgsm", tmp_path, languages=("th",)).examples] == [
            "1000",
            "2000",
            "3000",
        ]

    def test_global_mmlu_carries_the_region_and_reads_both_shapes(self, tmp_path):
        rows = read("global_mmlu", tmp_path / "a").examples
        assert [row.region for row in rows if row.language == "en"] == [None, "Asia", "Asia"]
        flat = {"sample_id": "t/0", "subject": "toys", "question": "Q?", "answer": "C",
                "region": "Africa", **{f"option_{c}": c for c in "abcd"}}  # fmt: skip
        making.lines(tmp_path / "b" / "sw" / "test.jsonl", [flat])
        (row,) = load_source("global_mmlu", SourceOptions(path=tmp_path / "b")).examples
        assert (row.language, row.answer, row.region, row.category) == ("sw", "C", "Africa", "toys")

    def test_xcopa_asks_for_causes_and_effects(self, tmp_path):
        rows = read("xcopa", tmp_path, languages=("sw",)).examples
        assert rows[0].prompt.startswith("The toy 0 fell. What was the cause?\nA. It was pushed.")
        assert [row.answer for row in rows] == ["A", "B", "A"]
        tuned = read("xcopa", tmp_path, parts=("val",)).examples
        assert {row.split for row in tuned} == {"validation"}

    def test_mmbench_pictures_are_written_once_and_turned_options_share_a_group(self, tmp_path):
        rows = read("mmbench", tmp_path).examples
        assert len({row.image for row in rows}) == 1
        assert Image.open(rows[0].image).size == (300, 300)
        assert rows[0].group == rows[2].group != rows[1].group
        assert rows[0].prompt.startswith("Look.\nWhich colour?\nA. red\nB. green\nAnswer")
        written = (tmp_path / "MMBench_DEV_EN_images" / "7.jpg").stat().st_mtime_ns
        read("mmbench", tmp_path)
        assert (tmp_path / "MMBench_DEV_EN_images" / "7.jpg").stat().st_mtime_ns == written

    def test_mmbench_refuses_a_picture_that_is_none(self, tmp_path):
        path = making.mmbench(tmp_path)
        path.write_text(path.read_text().replace("\t7\n", "\tbm8gcGljdHVyZQ==\n", 1))
        with pytest.raises(DataError, match=r"row 3: picture .* is damaged"):
            load_source("mmbench", SourceOptions(path=path))


def test_rows_of_one_number_in_several_files_are_each_counted(tmp_path):
    folder = making.mgsm(tmp_path)
    folder = folder if folder.is_dir() else folder.parent
    files = sorted(folder.glob("mgsm_*.tsv"))
    for file in files:
        file.write_text("no tab here\n" + file.read_text().partition("\n")[2])
    read = load_source("mgsm", SourceOptions(path=folder, on_bad_row="skip"))
    assert read.dropped_rows == len(read.dropped) == len(files) > 1


class TestHub:
    COLUMNS = making.OPTIONS["hub"]["columns"]

    def test_columns_and_constants_become_fields_and_the_rest_has_defaults(self, tmp_path):
        row = read("hub", tmp_path).examples[1]
        assert (row.prompt, row.language, row.harm, row.category, row.split) == (
            "Is toy 1 red?", "en", "benign", "1", "test",
        )  # fmt: skip
        assert row.id == row.group == "any:2"

    def test_what_datasets_saved_says_the_same(self, tmp_path):
        datasets = pytest.importorskip("datasets")
        path = making.hub(tmp_path / "a")
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        folder = tmp_path / "saved"
        both = {"train": rows[:3], "extra": rows[3:]}
        datasets.DatasetDict(
            {name: datasets.Dataset.from_list(part) for name, part in both.items()}
        ).save_to_disk(folder)
        options = SourceOptions(path=folder, columns=self.COLUMNS)
        saved = load_source("hub", options).examples
        assert [row.prompt for row in saved] == [row["Goal"] for row in rows]
        part = load_source("hub", options.model_copy(update={"parts": ("extra",)})).examples
        assert [row.prompt for row in part] == [row["Goal"] for row in rows[3:]]
        assert part == saved[3:]
        with pytest.raises(DataError, match=r"no part dev .*there are \['extra', 'train'\]"):
            load_source("hub", options.model_copy(update={"parts": ("dev",)}))

    def test_without_the_library_it_says_what_to_install(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "datasets", None)
        options = SourceOptions(path=tmp_path, columns=self.COLUMNS)
        with pytest.raises(DataError, match=r"precise-shield\[hub\]"):
            load_source("hub", options)
        assert len(read("hub", tmp_path / "file").examples) == 5

    @pytest.mark.parametrize(
        ("columns", "said"),
        [
            ({}, "needs options.columns"),
            ({"promt": "Goal", "prompt": "Goal"}, "Did you mean 'prompt'"),
            ({"prompt": "goal", "language": "=en", "harm": "=benign"}, "has no column 'goal'"),
            ({"prompt": "Goal", "language": "=English", "harm": "=benign"}, "lower-case BCP-47"),
            ({"prompt": "Goal", "language": "=en"}, "harm is missing"),
        ],
    )
    def test_a_mapping_that_does_not_fit_is_a_sentence(self, tmp_path, columns, said):
        with pytest.raises(DataError, match=said):
            read("hub", tmp_path, columns=columns)


@pytest.mark.parametrize("name", sorted(making.MAKERS))
def test_a_damaged_file_is_a_sentence(name, tmp_path):
    """Each file of the set in turn is overwritten with what is no such file."""
    whole = making.MAKERS[name](tmp_path / "whole")
    folder = whole if whole.is_dir() else whole.parent
    files = [file for file in sorted(folder.rglob("*")) if file.suffix in {".json", ".csv", ".tsv",
             ".jsonl"}]  # fmt: skip
    assert files
    for file in files:
        kept = file.read_bytes()
        for rubbish in (b"\xff\xfe\x00", b"{", b'{"a": 1}', b"[1]", b"a,b\n1\n", b""):
            file.write_bytes(rubbish)
            options = SourceOptions(path=whole, **making.OPTIONS.get(name, {}))
            with suppress(DataError):  # anything else fails the test
                load_source(name, options)
        file.write_bytes(kept)
    assert len(load_source(name, options).examples) == making.ROWS[name]
