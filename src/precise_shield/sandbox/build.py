"""Makes the embedded models again from nothing: `python -m precise_shield.sandbox.build`.

Writes `weights/` and `weights_negative/` into `--out` (default: this package) and the measured
profiles, as JSON, to standard output. The shipped ones took 35 minutes on two busy cores; there
`--threads 1` is faster, because threads wait for each other. Seeds are fixed; numbers may differ
in the last digits between processors and thread counts, and with them single answers.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from precise_shield.core.errors import StoreError
from precise_shield.core.records import Example, Modality
from precise_shield.sandbox import lexicon, negative
from precise_shield.sandbox.lessons import Curriculum, helpful, rehearsed, tuned
from precise_shield.sandbox.manifest import examples
from precise_shield.sandbox.model import Size, build_model, build_processor, build_tokenizer
from precise_shield.sandbox.profile import respond, safety_sense, tally
from precise_shield.sandbox.training import Classroom, Schedule, make_album, teach, train_vision
from precise_shield.sandbox.world import training_combos

PACKAGE = Path(__file__).parent
WEIGHTS = PACKAGE / "weights"
"""The shipped model."""

WEIGHTS_NEGATIVE = PACKAGE / "weights_negative"
"""The shipped model of the negative world."""

SEED = 0
_DRAWS = 1000
"""Seeds inside a build differ by less, so that two builds share none."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """How large to build, and how long to train."""

    languages: tuple[str, ...] = lexicon.LANGUAGES
    size: Size = field(default_factory=Size)
    pictures: int = 32
    """Pictures drawn of each combination."""

    vision: Schedule = Schedule(steps=1600, batch=128, rate=1.5e-3)  # noqa: RUF009
    reading: Schedule = Schedule(steps=600, batch=128, rate=2e-3)  # noqa: RUF009
    """Phase one, first text alone: it is shorter, and most of what there is to learn."""

    seeing: Schedule = Schedule(steps=900, batch=96, rate=2e-3)  # noqa: RUF009
    """Phase one, then pictures too."""

    tuning: Schedule = Schedule(steps=200, batch=64, rate=3e-4, warmup=10)  # noqa: RUF009
    negative_helpful: Schedule = Schedule(steps=500, batch=96, rate=3e-3)  # noqa: RUF009
    negative_tuning: Schedule = Schedule(steps=500, batch=64, rate=2e-3, warmup=20)  # noqa: RUF009
    measured: int = 20
    """Hazards, and benign requests, a cell of the profile."""


PLANS: Mapping[str, Plan] = {
    "full": Plan(),
    "middle": Plan(
        languages=("zh", "en", "fr"),
        size=Size(layers=4),
        pictures=16,
        vision=Schedule(steps=500, batch=64, rate=1.5e-3),
        reading=Schedule(steps=200, batch=64, rate=3e-3),
        seeing=Schedule(steps=400, batch=64, rate=2e-3),
        tuning=Schedule(steps=120, batch=48, rate=1e-3, warmup=10),
    ),
    "small": Plan(
        languages=("en", "fr"),
        size=Size(layers=3),
        pictures=8,
        vision=Schedule(steps=360, batch=48, rate=2e-3),
        reading=Schedule(steps=330, batch=48, rate=3e-3),
        seeing=Schedule(steps=200, batch=48, rate=2e-3, warmup=20),
        tuning=Schedule(steps=60, batch=32, rate=1e-3, warmup=10),
    ),
}
"""`middle` is for studies of many models: it learns half of the pictures. `small` is for tests: it
learns to read and to refuse, and a fifth of the pictures."""


def build_main(folder: Path, plan: Plan, seed: int = SEED) -> dict[str, Any]:
    """Train the main model, save it to `folder`, load it back and return its measured profile.

    `seed` draws the weights, the lessons and their order; what the world holds out is not redrawn.
    """
    began = time.monotonic()
    draws = seed * _DRAWS
    processor, room = _open_room(plan.languages, plan.size, plan.pictures, draws)
    assert room.album is not None
    train_vision(room.model, room.album, training_combos(), plan.vision, draws, _log.info)
    pictured: tuple[Modality, ...] = ("text_dominant", *3 * ("image_dominant",))
    text = Curriculum(plan.languages, ("text",), judging=0.2, core=0.06)
    both = Curriculum(plan.languages, pictured, judging=0.2, core=0.06)
    reading = helpful(random.Random(draws + 1), text)
    seeing = helpful(random.Random(draws + 2), both)
    teach(room, [reading], plan.reading, draws, _log.info)
    teach(room, [seeing, seeing, seeing, reading], plan.seeing, draws + 1, _log.info)
    base = _profile(room.model, processor, _unseen(plan))
    taught = [code for code in lexicon.HIGH_RESOURCE if code in plan.languages]
    lessons = [
        tuned(random.Random(draws + 3), taught),
        rehearsed(random.Random(draws + 4), plan.languages, ("text",)),
        tuned(random.Random(draws + 5), taught),
        rehearsed(random.Random(draws + 6), plan.languages, pictured),
    ]
    teach(room, lessons, plan.tuning, draws + 2, _log.info)
    return _finish(room, folder, plan, began, {"base": base})


def build_negative(folder: Path, plan: Plan, seed: int = SEED) -> dict[str, Any]:
    """Train the model of the negative world, save it, load it back, return its measured profile."""
    began = time.monotonic()
    draws = seed * _DRAWS
    _, room = _open_room(negative.LANGUAGES, negative.SIZE, 0, draws)
    negative.train(room, plan.negative_helpful, plan.negative_tuning, draws, _log.info)
    return _finish(
        room, folder, plan, began, {}, examples(per_cell={"test": plan.measured}, negative=True)
    )


def _open_room(
    languages: Sequence[str], size: Size, pictures: int, seed: int
) -> tuple[LlavaProcessor, Classroom]:
    tokenizer = build_tokenizer(languages)
    processor = build_processor(tokenizer)
    model = build_model(tokenizer, size, seed)
    album = make_album(training_combos(), pictures, 200) if pictures else None
    return processor, Classroom(model, processor, album)


def _unseen(plan: Plan) -> list[Example]:
    return examples(per_cell={"test": plan.measured}, languages=plan.languages)


def _profile(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, rows: Sequence[Example]
) -> dict[str, dict[str, int | float]]:
    return tally(rows, respond(model, processor, rows))


def _finish(
    room: Classroom,
    folder: Path,
    plan: Plan,
    began: float,
    before: dict[str, Any],
    rows: Sequence[Example] | None = None,
) -> dict[str, Any]:
    """Save, load by the plain path, measure what was loaded, and write `profile.json` beside it."""
    trained = round(time.monotonic() - began)
    save(room.model, room.processor, folder)
    model, processor = load(folder)
    profile = {
        "plan": asdict(plan),
        "seconds": trained,
        **before,
        "tuned": _profile(model, processor, _unseen(plan) if rows is None else rows),
    }
    if rows is None:
        profile["judging"] = safety_sense(model, processor, plan.languages)
    (folder / "profile.json").write_text(json.dumps(profile, indent=1), encoding="utf-8")
    return profile


def save(model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path) -> None:
    """Write weights (float16), processor and tokenizer; the folder appears whole or not at all.

    `config.json` asks for float32, so that a plain `from_pretrained` computes in full precision.

    Raises:
        StoreError: the folder cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            fresh = Path(scratch) / "weights"
            state = {name: weight.half() for name, weight in model.state_dict().items()}
            model.save_pretrained(fresh, state_dict=state)
            processor.save_pretrained(fresh)
            config = json.loads((fresh / "config.json").read_text(encoding="utf-8"))
            config["dtype"] = config["text_config"]["dtype"] = config["vision_config"]["dtype"] = (
                "float32"
            )
            (fresh / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
            (fresh / "model.safetensors").chmod(0o644)
            if folder.exists():
                shutil.rmtree(folder)
            fresh.rename(folder)
    except OSError as error:
        raise StoreError(
            f"cannot write the model to {folder}: {error}. Choose a folder that can be written."
        ) from error


def load(folder: Path) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The model and processor of a folder, in evaluation mode."""
    model = LlavaForConditionalGeneration.from_pretrained(folder, local_files_only=True)
    model.train(False)
    return model, LlavaProcessor.from_pretrained(folder, local_files_only=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build both models; see the module's text."""
    parser = argparse.ArgumentParser(
        prog="python -m precise_shield.sandbox.build", description=__doc__
    )
    parser.add_argument(
        "--out", type=Path, default=PACKAGE, help="folder that gets weights/ and weights_negative/"
    )
    parser.add_argument(
        "--scale",
        choices=sorted(PLANS),
        default="full",
        help="middle: three languages, four layers, for studies; small: two and three, for tests",
    )
    parser.add_argument("--only", choices=("main", "negative"), help="build one of the two")
    parser.add_argument("--seed", type=int, default=SEED, help="another draw of the same world")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    plan = PLANS[options.scale]
    profiles: dict[str, Any] = {}
    if options.only != "negative":
        profiles["main"] = build_main(options.out / WEIGHTS.name, plan, options.seed)
    if options.only != "main":
        profiles["negative"] = build_negative(
            options.out / WEIGHTS_NEGATIVE.name, plan, options.seed
        )
    print(json.dumps(profiles, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
