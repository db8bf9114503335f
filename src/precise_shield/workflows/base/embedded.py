"""The embedded worlds, under names that a configuration can use."""

from __future__ import annotations

from pathlib import Path

from precise_shield import sandbox
from precise_shield.core.store import readable_errors
from precise_shield.data.manifest import Loaded, load
from precise_shield.data.sources import SOURCES, SourceOptions, limited
from precise_shield.models.loading.spec import ModelSpec
from precise_shield.sandbox.manifest import write_manifest
from precise_shield.workflows.base.sections.model import ModelSection

_HOME = Path(sandbox.__file__).parent
MODELS = {"sandbox": _HOME / "weights", "sandbox-negative": _HOME / "weights_negative"}
"""Model names that are folders of this package."""


def spec_of(section: ModelSection) -> ModelSpec:
    """The model section as the loader takes it, shipped names resolved."""
    return ModelSpec(
        path=str(MODELS.get(section.path, section.path)),
        revision=section.revision,
        gguf_file=section.gguf_file,
        dtype=section.dtype,
        device=section.device,
        shard=section.shard == "fsdp",
        device_map=section.device_map,
        max_memory=section.max_memory,
        quantise=None if section.quantise == "none" else section.quantise,
        trust_remote_code=section.trust_remote_code,
        chat_template=section.chat_template,
    )


def _positive(options: SourceOptions) -> Loaded:
    """The toy kingdom of ten languages, written to `path` when it is not there yet."""
    return _embedded(options, negative=False)


def _negative(options: SourceOptions) -> Loaded:
    """The world in which no two languages share what is hazardous."""
    return _embedded(options, negative=True)


def _embedded(options: SourceOptions, *, negative: bool) -> Loaded:
    manifest = options.path / "manifest.jsonl"
    if not manifest.is_file():
        with readable_errors(options.path):
            write_manifest(options.path, seed=options.seed, negative=negative)
    loaded = load(manifest, options.on_bad_row)
    spoken = set(options.languages)
    kept = [row for row in loaded.examples if not spoken or row.language in spoken]
    return Loaded(limited(kept, options.limit), loaded.dropped)


EMBEDDED = ("sandbox", "sandbox-negative")
"""Sources that bring their own data."""

for _name, _source in zip(EMBEDDED, (_positive, _negative), strict=True):
    SOURCES.register(_name)(_source)
