"""A manifest is checked on every row, and every problem is said with its row."""

from __future__ import annotations

import csv
import json
import sys
from io import StringIO

import fastjsonschema
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from data.making import jsonl, picture, values
from precise_shield.core.errors import DataError
from precise_shield.core.records import Example
from precise_shield.data.manifest import (
    CHOICES,
    KNOWN,
    REQUIRED,
    SHOWN,
    Problem,
    check,
    load,
    schema_text,
)


def as_csv(folder, rows, name="m.csv", newline="\n"):
    out = StringIO()
    writer = csv.DictWriter(
        out, sorted({key for row in rows for key in row}), lineterminator=newline
    )
    writer.writeheader()
    writer.writerows(rows)
    path = folder / name
    path.write_bytes(out.getvalue().encode("utf-8"))
    return path


def everything(folder):
    picture(folder / "pictures" / "a.png")
    return [
        values(
            0, target="No.", answer="Yes, “so”,\nand so", category="Fraud", region="x", source="y"
        ),
        values(1, harm="benign", matched=True, language="zh-tw", prompt="龍在哪裡？"),
        values(2, modality="image_dominant", form="typography", image="pictures/a.png",
               request="What does it say?"),
    ]  # fmt: skip


def test_a_good_manifest_gives_exactly_its_rows_and_pictures_become_absolute(tmp_path):
    rows = everything(tmp_path)
    loaded = load(jsonl(tmp_path, *rows))
    where = str((tmp_path / "pictures" / "a.png").resolve())
    assert loaded.examples == [Example(**row) for row in rows[:2]] + [
        Example(**{**rows[2], "image": where})
    ]
    assert loaded.dropped == []


def test_csv_and_jsonl_say_the_same(tmp_path):
    rows = everything(tmp_path)
    one = load(jsonl(tmp_path, *rows)).examples
    assert load(as_csv(tmp_path, rows)).examples == one
    marked = tmp_path / "bom.csv"
    marked.write_bytes(b"\xef\xbb\xbf" + as_csv(tmp_path, rows, newline="\r\n").read_bytes())
    assert load(marked).examples == one
    assert one[0].answer == "Yes, “so”,\nand so"


def test_null_is_absent_and_blank_lines_do_not_shift_row_numbers(tmp_path):
    path = jsonl(
        tmp_path, values(0, category="") | {"target": None}, "", values(1) | {"harm": "bad"}
    )
    problems = check(path)
    assert [problem.row for problem in problems] == [1, 3]
    assert problems[0].message == "category is blank"
    assert check(jsonl(tmp_path, values(0) | {"target": None})) == []


@pytest.mark.parametrize("name", REQUIRED)
def test_every_required_field_is_required(tmp_path, name):
    (problem,) = check(jsonl(tmp_path, values(0, **{name: None})))
    assert str(problem) == f"row 1: {name} is missing"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"modality": "sound"}, "modality is 'sound', none of text, text_dominant, image_dominant"),
        ({"harm": "evil"}, "harm is 'evil', none of harmful, benign"),
        ({"split": "Test"}, "split is 'Test', none of probe, train, validation, test"),
        ({"form": "neon"}, "form is 'neon', none of visual, typography, mixed"),
        ({"language": "EN"}, "write a lower-case BCP-47 tag"),
        ({"language": "english language"}, "write a lower-case BCP-47 tag"),
        ({"prompt": "  "}, "prompt is blank"),
        ({"id": 7}, "id is 7, not text"),
        ({"target": ["no"]}, "target is ['no'], not text"),
        ({"matched": "perhaps"}, "matched is 'perhaps'; write true or false"),
        ({"matched": 1}, "matched is 1; write true or false"),
        ({"matched": True}, "only benign rows are matched"),
        ({"catgory": "Fraud"}, "unknown field 'catgory'. Did you mean 'category'?"),
        ({"modality": "image_dominant"}, "modality is image_dominant but there is no image"),
        ({"modality": "text_dominant"}, "modality is text_dominant but there is no image"),
        ({"image": "a.png"}, "modality is text but image or form is given"),
        ({"form": "visual"}, "modality is text but image or form is given"),
        ({"prompt": "a\0b"}, "prompt holds a lone surrogate or a NUL character"),
    ],
)
def test_every_rule_is_held(tmp_path, changes, said):
    (problem,) = check(jsonl(tmp_path, values(0, **changes)))
    assert said in problem.message


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "is no JSON object"),
        ("[]", "is no JSON object"),
        ("null", "is no JSON object"),
        ('{"id": 1, "id": 2}', "a field is given twice"),
        ("[" * 100_000, "is no JSON object"),
        ('{"id": ' + "9" * 5000 + "}", "is no JSON object"),
        (json.dumps(values(0, prompt="\ud800")), "lone surrogate"),
    ],
)
def test_a_line_that_is_no_row_is_a_problem_of_that_row(tmp_path, line, said):
    (problem,) = check(jsonl(tmp_path, values(1), line, values(2)))
    assert problem.row == 2
    assert said in problem.message


def test_rows_are_checked_against_each_other(tmp_path):
    path = jsonl(
        tmp_path,
        values(0),
        values(1, id="r0"),
        values(2, group="g0", split="test"),
        values(3, group="g0", harm="benign"),
        values(4, group="g0"),
    )
    assert [str(problem) for problem in check(path)] == [
        "row 2: id 'r0' is used by an earlier row",
        "row 3: group 'g0' is in test here and in probe above",
        "row 4: group 'g0' is benign here and harmful above",
    ]


def test_a_bad_row_stops_or_is_left_out_and_counted(tmp_path):
    path = jsonl(tmp_path, values(0), values(1, harm="x", split="y"), values(2), "{")
    with pytest.raises(DataError, match=r"3 problems in 2 rows(.|\n)*row 2: .*(.|\n)*row 4"):
        load(path)
    loaded = load(path, on_bad_row="skip")
    assert [row.id for row in loaded.examples] == ["r0", "r2"]
    assert [problem.row for problem in loaded.dropped] == [2, 2, 4]
    assert loaded.dropped_rows == 2


def test_skipping_leaves_no_contradiction_behind(tmp_path):
    path = jsonl(tmp_path, values(0), values(1, group="g0", split="test"), values(2, id="r0"))
    kept = load(path, on_bad_row="skip").examples
    assert [row.id for row in kept] == ["r0"]
    assert load(jsonl(tmp_path, values(0), values(1)), on_bad_row="skip").dropped == []


def test_many_problems_are_counted_and_the_first_twenty_shown(tmp_path):
    path = jsonl(tmp_path, *(values(n, harm="x") for n in range(50)))
    with pytest.raises(DataError) as error:
        load(path)
    text = str(error.value)
    assert "50 problems in 50 rows" in text
    assert text.count("row ") == SHOWN
    assert "and 30 more" in text
    assert len(check(path)) == 50


def test_nothing_left_is_an_error_even_when_skipping(tmp_path):
    with pytest.raises(DataError, match="gives no examples; 1 problems, the first: row 1"):
        load(jsonl(tmp_path, values(0, harm="x")), on_bad_row="skip")
    with pytest.raises(DataError, match="gives no examples"):
        load(jsonl(tmp_path))
    assert check(jsonl(tmp_path)) == [Problem(None, "the file holds no rows")]


@pytest.mark.parametrize("mode", ["stop", "skip"])
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("m.xlsx", b"PK", "ends in none of .jsonl, .csv, .parquet"),
        ("m.parquet", b"PAR1", "is no Parquet that can be read after row 0"),
        ("gone.jsonl", None, "cannot be read"),
        ("m.csv", b"", "gives no examples"),
        ("m.csv", b"id,id\n1,2\n", "names a column twice"),
        ("m.csv", b"id,language\na,en\n", "header lacks modality, harm, prompt, split, group"),
        ("m.csv", b"id,\xff\n", "is not UTF-8"),
        ("m.jsonl", '{"id": "a"}\n'.encode("utf-16"), "is UTF-16, not UTF-8. Save it as UTF-8"),
        (
            "m.jsonl",
            b'{"id": "\xe9"}\n{"id": "b"}\n{"id": "\xe4"}',
            "none of its 2 rows with other",
        ),
        ("m.csv", b'id,language,modality,harm,prompt,split,group\na,"b', "breaks the CSV format"),
    ],
)
def test_a_file_that_is_no_manifest_stops_whatever_the_mode(tmp_path, name, content, said, mode):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        load(tmp_path / name, on_bad_row=mode)
    assert said in str(error.value)
    assert "on_bad_row" not in str(error.value)


def test_a_file_that_breaks_off_stops_although_rows_before_it_are_good(tmp_path):
    path = as_csv(tmp_path, [values(0), values(1)])
    assert len(load(path, on_bad_row="skip").examples) == 2
    path.write_text(path.read_text() + 'a,"b')
    with pytest.raises(DataError, match="record 4 breaks the CSV format"):
        load(path, on_bad_row="skip")


def as_parquet(folder, rows, name="m.parquet"):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = folder / name
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_parquet_says_what_jsonl_says(tmp_path):
    rows = everything(tmp_path)
    columns = {key: None for row in rows for key in row}
    path = as_parquet(tmp_path, [columns | row for row in rows])
    assert load(path).examples == load(jsonl(tmp_path, *rows)).examples


def test_parquet_rows_that_are_no_text_are_problems_of_their_row(tmp_path):
    rows = [values(0), values(1)]
    odd = [row | {"category": number} for number, row in enumerate(rows)]
    assert [str(p) for p in check(as_parquet(tmp_path, odd))] == [
        "row 1: category is 0, not text",
        "row 2: category is 1, not text",
    ]
    lacking = [{"id": "a", "language": "en"}]
    (problem,) = check(as_parquet(tmp_path, lacking))
    assert "the schema lacks modality, harm" in problem.message
    assert problem.row is None


def test_parquet_that_writes_missing_texts_as_nan_has_missing_texts(tmp_path):
    rows = [values(0) | {"category": float("nan")}, values(1) | {"category": float("nan")}]
    assert [row.category for row in load(as_parquet(tmp_path, rows)).examples] == [None, None]


def test_parquet_without_its_library_is_one_sentence(tmp_path, monkeypatch):
    path = as_parquet(tmp_path, [values(0)])
    assert check(path) == []
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (problem,) = check(path)
    assert "pip install" in problem.message
    assert "precise-shield[parquet]" in problem.message


def test_a_byte_order_mark_is_no_problem(tmp_path):
    path = jsonl(tmp_path, values(0))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert check(path) == []


def test_a_record_of_another_length_is_a_problem_of_its_row(tmp_path):
    path = as_csv(tmp_path, [values(0), values(1)])
    path.write_text(path.read_text() + "a,b\n")
    assert [str(p) for p in check(path)] == ["row 4: has 2 fields, the header 7"]


class TestPictures:
    @pytest.mark.parametrize(
        "name",
        ["../secret.png", "/etc/passwd", "in/../../secret.png", "..\\secret.png", "link.png"],
    )
    def test_a_path_out_of_the_folder_is_refused(self, tmp_path, name):
        picture(tmp_path / "secret.png")
        folder = tmp_path / "data"
        picture(folder / "in" / "ok.png")
        (folder / "link.png").symlink_to(tmp_path / "secret.png")
        row = values(0, modality="image_dominant", image=name)
        (problem,) = check(jsonl(folder, row))
        assert "leads out of the data's folder" in problem.message
        inside = values(0, modality="image_dominant", image="in/../in/ok.png")
        assert check(jsonl(folder, inside)) == []

    def test_a_missing_broken_or_huge_picture_is_a_problem_of_its_row(self, tmp_path):
        whole = picture(tmp_path / "big.png", size=(300, 200)).read_bytes()
        (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
        (tmp_path / "folder.png").mkdir()
        names = ["none.png", "cut.png", "folder.png", "big.png"]
        rows = [values(n, modality="text_dominant", image=name) for n, name in enumerate(names)]
        path = jsonl(tmp_path, *rows)
        said = [str(problem) for problem in check(path)]
        assert [text[:6] for text in said] == ["row 1:", "row 2:", "row 3:"]
        assert "no regular file" in said[0]
        assert "damaged, cut short" in said[1]
        assert "row 4: picture" in str(check(path, max_pixels=59_999)[-1])
        assert check(path, max_pixels=60_000)[-1].row == 3

    def test_a_path_that_no_disk_can_hold_is_a_problem(self, tmp_path):
        row = values(0, modality="image_dominant", image="a" * 5000)
        assert len(check(jsonl(tmp_path, row))) == 1


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=4,
)
plausible = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["a", "b", "c"]) | anything,
        "language": st.sampled_from(["en", "zh", "EN", "e"]) | anything,
        "modality": st.sampled_from(["text", "text_dominant", "image_dominant"]) | anything,
        "harm": st.sampled_from(["harmful", "benign"]) | anything,
        "prompt": st.text(max_size=10) | anything,
        "split": st.sampled_from(["probe", "test"]) | anything,
        "group": st.sampled_from(["g", "h"]) | anything,
    },
    optional={name: anything for name in KNOWN if name not in REQUIRED} | {"odd": anything},
)


good_or_nearly = st.sampled_from(
    ["text", "harmful", "benign", "test", "visual", "en-gb", "EN", "", "a.png", "yes", "0"]
) | st.sampled_from([None, True, False, 1, "\0", "image_dominant"])
changed = st.dictionaries(st.sampled_from([*KNOWN, "odd"]), good_or_nearly, max_size=2).map(
    lambda changes: values(0) | changes
)


def said_or_loaded(path):
    """Whatever happens is either examples or sentences, and `check` and `load` agree."""
    problems = check(path)
    assert all(problem.message and len(str(problem)) < 2000 for problem in problems)
    try:
        examples, said = load(path).examples, ""
    except DataError as error:
        examples, said = [], str(error)
    assert bool(problems) == bool(said) == (not examples)
    assert not said or path.name in said
    said.encode("utf-8")


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(plausible | anything, max_size=5))
def test_no_row_of_json_crashes_the_reader(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("fuzz")
    path = folder / "m.jsonl"
    path.write_bytes(b"\n".join(json.dumps(row).encode() for row in rows))
    said_or_loaded(path)


@pytest.fixture(scope="module")
def row_schema():
    return fastjsonschema.compile(json.loads(schema_text()))


@settings(max_examples=300, deadline=None)
@given(row=plausible | changed)
def test_the_shipped_schema_allows_exactly_the_rows_that_the_checker_allows(
    tmp_path_factory, row_schema, row
):
    """Two descriptions of the same rules, one for people's tools and one in code."""
    folder = tmp_path_factory.getbasetemp() / "schema"
    picture(folder / "a.png")
    row = {key: "a.png" if key == "image" and value else value for key, value in row.items()}
    said = check(jsonl(folder, row))
    try:
        row_schema(row)
        allowed = True
    except fastjsonschema.JsonSchemaValueException:
        allowed = False
    assert allowed == (not said), (row, said)
    event("allowed" if allowed else "refused")


def test_the_schema_knows_every_field_choice_and_good_row(tmp_path, row_schema):
    schema = json.loads(schema_text())
    assert set(schema["properties"]) == set(KNOWN)
    assert tuple(schema["required"]) == REQUIRED
    for name, choices in CHOICES.items():
        assert {c for c in schema["properties"][name]["enum"] if c} == set(choices)
    for row in everything(tmp_path):
        assert row_schema(row) == row


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=200), name=st.sampled_from(["m.jsonl", "m.csv", "m.parquet"]))
def test_no_bytes_crash_the_reader(tmp_path_factory, data, name):
    path = tmp_path_factory.mktemp("fuzz") / name
    path.write_bytes(data)
    said_or_loaded(path)


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.lists(st.text(max_size=6), min_size=6, max_size=8), max_size=4))
def test_no_csv_records_crash_the_reader(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("fuzz") / "m.csv"
    out = StringIO()
    csv.writer(out).writerows([list(REQUIRED), *rows])
    path.write_bytes(out.getvalue().encode("utf-8", "surrogatepass"))
    said_or_loaded(path)


@settings(max_examples=80, deadline=None)
@given(place=st.floats(0, 0.999), value=st.integers(0, 255))
def test_a_flipped_byte_in_parquet_gives_rows_or_sentences(tmp_path_factory, place, value):
    folder = tmp_path_factory.mktemp("flip")
    path = as_parquet(folder, [values(0, category="Fraud"), values(1)])
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] = value
    path.write_bytes(bytes(data))
    problems = check(path)
    assert all(problem.message and len(str(problem)) < 2000 for problem in problems)


def test_one_row_in_another_encoding_is_that_row_alone(tmp_path):
    path = jsonl(tmp_path, values(0) | {"prompt": "Größe?"}, values(1))
    path.write_bytes(path.read_bytes() + b'{"id": "\xe9"}')
    (problem,) = check(path)
    assert problem.row == 3
    assert "is not UTF-8" in problem.message
    assert "save it as UTF-8" in problem.message
