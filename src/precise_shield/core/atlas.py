"""An atlas: the sets that were found in a model, in files that others can read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from precise_shield.core.errors import StoreError
from precise_shield.core.records import Modality
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.core.store import write_whole
from precise_shield.core.tensors import write_tensors

SCHEMA_VERSION = 1


@dataclass(frozen=True, eq=False)
class Atlas:
    """Every named set of a run, and the one that is verified and tuned.

    Shapes: `scores["en/text"][site]` is `[width]`: what the score says of each unit for harmful
        inputs, minus what it says for benign ones if it looks at one kind at a time.
    """

    sets: dict[str, NeuronSet]
    chosen: str
    widths: dict[Site, int]
    places: list[tuple[str, Modality]]

    scores: Mapping[str, Mapping[Site, Float[Tensor, " width"]]] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    """Where it comes from: model, data, score, position, p."""

    @property
    def neurons(self) -> NeuronSet:
        """The chosen set."""
        return self.sets[self.chosen]

    def save(self, folder: Path) -> Path:
        """Write `atlas.safetensors` and, the same without numbers of units, `atlas.json`.

        Tensors: `units|<set>|<site>`, int32, increasing; `score|<language>/<modality>|<site>`,
        float32, one value a unit. The metadata key `atlas` repeats the JSON.
        """
        tensors: dict[str, Tensor] = {
            f"units|{name}|{site}": torch.tensor(ids, dtype=torch.int32)
            for name, neurons in self.sets.items()
            for site, ids in neurons.units.items()
        }
        tensors |= {
            f"score|{name}|{site}": values.float().contiguous()
            for name, sites in self.scores.items()
            for site, values in sites.items()
        }
        text = json.dumps(self._header(), ensure_ascii=False, indent=1)
        path = folder / "atlas.safetensors"
        write_tensors(path, tensors, {"atlas": text})
        write_whole(folder / "atlas.json", text + "\n")
        return path

    def _header(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "chosen": self.chosen,
            "sets": {name: len(neurons) for name, neurons in self.sets.items()},
            "places": [list(place) for place in self.places],
            "widths": {str(site): width for site, width in self.widths.items()},
            "about": dict(self.about),
        }

    @classmethod
    def load(cls, path: Path) -> Atlas:
        """Read `save` back, from the safetensors file or its folder.

        Raises:
            StoreError: it is missing, damaged or of another schema.
        """
        file = path / "atlas.safetensors" if path.is_dir() else path
        try:
            with safe_open(file, framework="pt") as opened:
                header = json.loads((opened.metadata() or {}).get("atlas", "{}"))
                names = list(opened.keys())
                tensors = {name: opened.get_tensor(name) for name in names}
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise StoreError(f"{file} cannot be read as an atlas ({error}).") from error
        if header.get("schema_version") != SCHEMA_VERSION:
            raise StoreError(f"{file} is no atlas of schema {SCHEMA_VERSION}.")
        units: dict[str, dict[Site, list[int]]] = {name: {} for name in header["sets"]}
        scores: dict[str, dict[Site, Tensor]] = {}
        for name, tensor in tensors.items():
            kind, rest = name.split("|", 1)
            owner, site = rest.rsplit("|", 1)
            if kind == "units":
                units[owner][Site.parse(site)] = tensor.tolist()
            else:
                scores.setdefault(owner, {})[Site.parse(site)] = tensor
        return cls(
            sets={name: NeuronSet.of(sites) for name, sites in units.items()},
            chosen=header["chosen"],
            widths={Site.parse(site): width for site, width in header["widths"].items()},
            places=[(language, modality) for language, modality in header["places"]],
            scores=scores,
            about=header["about"],
        )
