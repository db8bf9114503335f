"""Each published recipe aligns a tiny model of its own architecture with its own settings."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import tiny_folders
from precise_shield.core.records import Response
from precise_shield.workflows.align import pairs
from precise_shield.workflows.align.parts import parts_of
from precise_shield.workflows.align.plans import arm_names
from precise_shield.workflows.align.stage import align
from precise_shield.workflows.base.config import validated
from precise_shield.workflows.base.context import started

CONFIGS = Path(__file__).parents[2] / "configs"
FAMILY = {
    "qwen3-vl-8b": "qwen3_vl",
    "llama-3.2-11b-vision": "mllama",
    "llava-onevision-7b": "llava_onevision",
    "gemma-3-4b": "gemma3",
    "qwen3-8b": "qwen3",
    "llama-3.1-8b": "llama",
    "gemma-2-9b": "gemma2",
    "safeneuron": "llama",
    "smollm2-135m": "llama",
    "sgm": "llava",
    "strategy-experts": "qwen3_moe",
    "strategy-leave-one-out": "llava",
    "strategy-modalities": "qwen3_vl",
    "strategy-per-language": "llava",
    "strategy-resource-levels": "qwen3",
}


def test_every_recipe_has_a_family_here():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(FAMILY)


QUICK = ("llava-onevision-7b", "qwen3-8b")
EACH = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in sorted(FAMILY)
]


@pytest.mark.parametrize("name", EACH)
def test_a_recipe_aligns_a_tiny_model_of_its_architecture(name, tmp_path, monkeypatch):
    given = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    family = FAMILY[name]
    folder = tiny_folders.tiny_loaded(family, tmp_path / family).folder
    sees = family in tiny_folders.EYES
    kinds = ["text", "text_dominant", "image_dominant"] if sees else ["text"]
    given["model"] = {"path": str(folder), "dtype": "float32", "device": "cpu"}
    given["data"] = {
        "sources": [{"source": "sandbox", "limit": 6 if "leave_out" in given["align"] else 2}],
        "languages": ["en", "zh"],
        "modalities": kinds,
        "benign_targets": "given",
    }
    wide = given["identify"]["score"] == "effect_size"  # its sets of cells share little here
    given["identify"] |= {"p": 0.1 if wide else 0.15, "sweep": [], "chosen": "all", "draws": 19}
    given["identify"].pop("responses", None)  # a random model refuses nothing;
    given["align"].pop("damp", None)  # damping has its test beside that of own responses
    section = given["align"]
    section |= {"max_steps": 1, "random_seeds": 1, "batch_size": 4, "micro_batch": 2}
    section["arms"] = section.get("arms", [])[:1]
    section["zero_shot"] = section.get("zero_shot", [])[:1]
    for part in section["zero_shot"]:
        if "languages" in part:
            part["languages"] = [lang for lang in part["languages"] if lang in ("en", "zh")]

    def hits(_run, harmful, _reader):
        return [Response(row.id, "base", "Sure.", 2, True) for row in harmful]

    monkeypatch.setattr(pairs, "_hits", hits)
    run = started(validated(given), tmp_path / "run", quiet=True)
    arms = {arm.condition.name: arm.receipt for arm in align(run)}
    assert list(arms) == arm_names(run.config.align, parts_of(run))
    tuned = arms["aligned"]
    assert tuned.untouched_verified
    assert tuned.changed_weights > 0
    assert tuned.learning_rate == given["align"]["learning_rate"]
    assert (
        tuned.form
        == {"lora_rows": "lora_rows", "direct": "direct_units"}[
            given["align"].get("form", "lora_rows")
        ]
    )
