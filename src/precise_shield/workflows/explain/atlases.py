"""Read atlases and set them side by side; no model is needed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from precise_shield.analyse.atlases import compare
from precise_shield.core.rates import or_null
from precise_shield.workflows.identify.stage import load_atlas


def described(path: Path) -> dict[str, object]:
    """What an atlas holds: where it comes from, and the size of every set.

    Raises:
        StoreError: it is missing, damaged or of another schema.
    """
    atlas = load_atlas(path)
    sizes = {name: len(neurons) for name, neurons in atlas.sets.items()}
    return {"about": dict(atlas.about), "chosen": atlas.chosen, "sizes": sizes}


def compared(a: Path, b: Path) -> list[dict[str, object]]:
    """Every set that both atlases name, beside its chance level.

    Raises:
        StoreError: a file is missing, damaged or of another schema.
        LayoutMismatchError: they are of models of different shape.
    """
    return [
        {
            key: or_null(value) if isinstance(value, float) else value
            for key, value in asdict(row).items()
        }
        for row in compare(load_atlas(a), load_atlas(b))
    ]
