"""Small files of the shapes that the field's authors publish. None of the text is from a set."""

from __future__ import annotations

import base64
import csv
import json
from io import BytesIO
from pathlib import Path

from PIL import Image

from data.making import picture


def table(path: Path, header, rows, delimiter=",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out, delimiter=delimiter).writerows([header, *rows] if header else rows)
    return path


def dump(path: Path, value) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def lines(path: Path, rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n")
    return path


def lingua(folder: Path) -> Path:
    """Pictures of the first kind below bundle_data, as published; of the second beside the list."""
    for language in ("English", "Chinese", "Norwegian"):
        for form in ("Visual", "Typography", "Mixed"):
            rows = []
            for n in range(2):
                name = f"{form}/{language}/{n}.png"
                picture(folder / "bundle_data" / name)
                rows.append({"question": f"What is toy {n} in {language}?", "image_path": name})
            dump(folder / "1-Image-Dominant Risk" / form / language / "Toy Theft.json", rows)
        picture(folder / "2-Text-Dominant Risk" / language / "p.png")
        beside = [{"question": f"Tease {n} in {language}", "image_path": "p.png"} for n in range(3)]
        dump(folder / "2-Text-Dominant Risk" / language / "Toy Theft.json", beside)
    return folder


def advbench_x(folder: Path) -> Path:
    languages = ["en", "zh", "ne"]
    rows = [[f"Tease dragon {n} in {language}" for language in languages] for n in range(24)]
    return table(folder / "advbench_x.csv", languages, rows)


def xsafety(folder: Path) -> Path:
    names = {"en": "Mental_Health_n", "sp": "Mental_Health", "ru": "Mental_Health"}
    for language, name in names.items():
        rows = [[f"May I, perhaps, worry {n}, {language}?"] for n in range(4)]
        table(folder / language / f"{name}.csv", None, rows)
    wrong = [[f"Insult toy {n}"] for n in range(3)]
    table(folder / "en" / "Crimes_And_Illegal_Activities_en.csv", None, wrong)
    table(folder / "ru" / "Crimes_And_Illegal_Activitie.csv", None, wrong)
    return folder


def jailbreakbench(folder: Path) -> Path:
    header = ["Index", "Goal", "Target", "Behavior", "Category", "Source"]
    for part in ("harmful", "benign"):
        rows = [[n, f"{part} toy {n}", "Sure, here", "toy", "Toys", "me"] for n in range(12)]
        table(folder / f"{part}-behaviors.csv", header, rows)
    return folder


def harmbench(folder: Path) -> Path:
    header = ["Behavior", "FunctionalCategory", "SemanticCategory", "Tags", "ContextString",
              "BehaviorID"]  # fmt: skip
    rows = [
        ["Tease the dragon", "standard", "toys", "", "", "tease_dragon"],
        ["Summarise how to tease", "contextual", "toys", "context", "A page\non teasing", "page"],
        ["Recite the song", "copyright", "", "", "", "song"],
    ]
    return table(folder / "harmbench_behaviors_text_all.csv", header, rows)


def harmbench_multimodal(folder: Path) -> Path:
    header = ["Behavior", "FunctionalCategory", "SemanticCategory", "Tags", "ImageFileName",
              "ImageDescription", "RedactedImageDescription", "BehaviorID"]  # fmt: skip
    rows = []
    for n in range(3):
        picture(folder / "multimodal_behavior_images" / f"toy_{n}.png")
        rows.append([f"Break the toy {n} in the image", "multimodal", "toys", "", f"toy_{n}.png",
                     "a toy", "a [thing]", f"break_{n}"])  # fmt: skip
    name = "harmbench_behaviors_multimodal_all.csv"
    table(folder / "behavior_datasets" / name, header, rows)
    return folder


def strongreject(folder: Path) -> Path:
    rows = [["Toys", "custom", f"Tease toy {n}"] for n in range(5)]
    header = ["category", "source", "forbidden_prompt"]
    return table(folder / "strongreject_dataset.csv", header, rows)


def or_bench(folder: Path) -> Path:
    for part, count in (("hard-1k", 6), ("80k", 9), ("toxic", 4)):
        rows = [[f"How do I kill time {n} {part}?", "toys"] for n in range(count)]
        table(folder / f"or-bench-{part}.csv", ["prompt", "category"], rows)
    return folder


def safety_tuned_llamas(folder: Path) -> Path:
    train = [
        {"instruction": f"Tease {n}", "input": "x" if n % 2 else "", "output": f"No, {n}."}
        for n in range(8)
    ]
    dump(folder / "safety_only_data_Instructions.json", train)
    for name in ("I-Alpaca", "I-PhysicalSafetySafe", "I-MaliciousInstructions", "Q-Harm"):
        dump(folder / f"{name}.json", {"instructions": [f"{name} {n}" for n in range(3)]})
    return folder


def mossbench(folder: Path) -> Path:
    for prefix, said in (("", "harmless"), ("contrast_", "worse")):
        rows = {}
        for n in ("1", "2", "3"):
            picture(folder / f"{prefix}images" / f"{n}.jpg", format="JPEG")
            rows[n] = {"image": f"images/{n}.png", "question": f"Is toy {n} {said}?", "pid": n,
                       "metadata": {"over": "type 1"}, "description": "a toy"}  # fmt: skip
        dump(folder / f"{prefix}information.json", rows)
    places = {"1.jpg": "images/1.jpg", "2.jpg": "contrast_images/2.jpg", "3.jpg": "images/3.jpg"}
    dump(folder / "contrast_image_map.json", places)
    return folder


def mm_safetybench(folder: Path) -> Path:
    for scenario in ("01-Toy_Theft", "10-Legal_Opinion"):
        rows = {}
        for n in ("0", "1"):
            for kind in ("SD", "SD_TYPO", "TYPO"):
                picture(folder / "imgs" / scenario / kind / f"{n}.jpg", format="JPEG")
            rows[n] = {"Question": "q", "Changed Question": "q", "Key Phrase": "k",
                       "Phrase Type": "toy", "Rephrased Question": f"How is this written {n}?",
                       "Rephrased Question(SD)": f"How is this drawn {n}?"}  # fmt: skip
        dump(folder / "processed_questions" / f"{scenario}.json", rows)
    return folder


def figstep(folder: Path) -> Path:
    header = ["dataset", "category_id", "task_id", "category_name", "question", "instruction"]
    for name, images, count in (("safebench", "SafeBench", 4), ("SafeBench-Tiny", None, 2)):
        rows = [["ForbidQI", 1, n, "Toys", f"How to tease {n}?", "Methods"] for n in range(count)]
        table(folder / "question" / f"{name}.csv", header, rows)
        for n in range(count):
            picture(folder / "images" / (images or name) / f"query_ForbidQI_1_{n}_6.png")
    benign = folder / "question" / "benign_sentences_without_harmful_phase.csv"
    benign.write_text("sentence\nWays to knit a scarf\nPlants, animals, stars\n")
    return folder


def mgsm(folder: Path) -> Path:
    for language in ("en", "th"):
        rows = [[f"{n} apples in {language}, and 1,000 more?", f"{n + 1:,}000"] for n in range(3)]
        table(folder / f"mgsm_{language}.tsv", None, rows, delimiter="\t")
    return folder


def mmlu(folder: Path) -> Path:
    for subject in ("toy_science", "games"):
        rows = [[f"What is {n}, roughly?", "1", "2", "3", "4", "ABCD"[n]] for n in range(4)]
        table(folder / "test" / f"{subject}_test.csv", None, rows)
    return folder


def global_mmlu(folder: Path) -> Path:
    for language in ("en", "zh"):
        rows = []
        for n in range(3):
            asked = {f"option_{letter}": f"{letter}{n}" for letter in "abcd"}
            asked |= {"question": f"Toy {n} {language}?", "subject": "toys"}
            about = {"sample_id": f"toys/test/{n}", "region": "['Asia', 'Asia']" if n else "[]"}
            rows.append({"metadata": about, "prompts": [asked], "label": "B", "id": n})
        lines(folder / f"global_mmlu_lite_{language}_test.jsonl", rows)
    return folder


def xcopa(folder: Path) -> Path:
    for part, count in (("test", 3), ("val", 2)):
        for language in ("en", "sw"):
            rows = [
                {"premise": f"The toy {n} fell.", "choice1": "It was pushed.",
                 "choice2": "It flew.", "question": ("cause", "effect")[n % 2],
                 "label": n % 2, "idx": n, "changed": False}
                for n in range(count)
            ]  # fmt: skip
            lines(folder / f"{part}.{language}.jsonl", rows)
    return folder


def mm_vet(folder: Path) -> Path:
    rows = {}
    for n in range(3):
        picture(folder / "images" / f"v1_{n}.png")
        rows[f"v1_{n}"] = {"imagename": f"v1_{n}.png", "question": f"What is toy {n}?",
                           "answer": "red<AND>round<OR>ball", "imagesource": "me",
                           "capability": ["ocr", "math"]}  # fmt: skip
    return dump(folder / "mm-vet.json", rows).parent


def mmbench(folder: Path) -> Path:
    stream = BytesIO()
    Image.new("RGB", (300, 300), "green").save(stream, format="PNG")
    whole = base64.b64encode(stream.getvalue()).decode() + "A" * 0
    header = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image"]
    rows = [
        [7, "Which colour?", "Look.", "red", "green", "", "", "B", "colour", whole],
        [8, "Which shape?", "", "round", "square", "long", "", "B", "shape", "7"],
        [1_000_007, "Which colour?", "Look.", "green", "red", "", "", "A", "colour", "7"],
    ]
    return table(folder / "MMBench_DEV_EN.tsv", header, rows, delimiter="\t")


def hub(folder: Path) -> Path:
    rows = [{"Goal": f"Is toy {n} red?", "lang": "en", "kind": n, "other": 3} for n in range(5)]
    return lines(folder / "any.jsonl", rows)


MAKERS = {
    "lingua_safetybench": lingua,
    "advbench_x": advbench_x,
    "xsafety": xsafety,
    "jailbreakbench": jailbreakbench,
    "harmbench": harmbench,
    "harmbench_multimodal": harmbench_multimodal,
    "strongreject": strongreject,
    "or_bench": or_bench,
    "safety_tuned_llamas": safety_tuned_llamas,
    "mossbench": mossbench,
    "mm_safetybench": mm_safetybench,
    "figstep": figstep,
    "mgsm": mgsm,
    "mmlu": mmlu,
    "global_mmlu": global_mmlu,
    "xcopa": xcopa,
    "mm_vet": mm_vet,
    "mmbench": mmbench,
    "hub": hub,
}
ROWS = {
    "lingua_safetybench": 3 * (3 * 2 + 3),
    "advbench_x": 72,
    "xsafety": 18,
    "jailbreakbench": 24,
    "harmbench": 3,
    "harmbench_multimodal": 3,
    "strongreject": 5,
    "or_bench": 6,
    "safety_tuned_llamas": 20,
    "mossbench": 3,
    "mm_safetybench": 12,
    "figstep": 6,
    "mgsm": 6,
    "mmlu": 8,
    "global_mmlu": 6,
    "xcopa": 6,
    "mm_vet": 3,
    "mmbench": 3,
    "hub": 5,
}
OPTIONS = {
    "hub": {
        "columns": {"prompt": "Goal", "language": "lang", "harm": "=benign", "category": "kind"}
    },
}
"""What a source cannot be read without."""
