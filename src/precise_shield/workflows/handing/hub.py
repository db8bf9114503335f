"""Alignments and atlases on the hub: pushed only when asked, and only what its gate let through."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from huggingface_hub import HfApi, get_token, hf_hub_download
from huggingface_hub.errors import HFValidationError, RemoteEntryNotFoundError
from pydantic import ValidationError

from precise_shield.align.export import THREAT_MODEL
from precise_shield.align.lowrank import LowRank
from precise_shield.align.receipt import StoredReceipt
from precise_shield.align.sparse import SparseDelta
from precise_shield.core.atlas import Atlas
from precise_shield.core.errors import ConfigError, GateError, LoadingError, StoreError
from precise_shield.core.store import read_json, readable_errors
from precise_shield.core.summary import GateFacts
from precise_shield.models.loading.files import first_line
from precise_shield.workflows.align.sealing import must_be_of, must_hold
from precise_shield.workflows.handing.delta_files import passport_of, read_delta
from precise_shield.workflows.handing.stamp import GATE, SPOKEN_FOR, file_hash, stamp

Pushable = Literal["model", "adapter", "delta", "low-rank delta", "atlas"]
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx")
"""Endings of files that can hold a model; none goes along that no gate saw."""

DELTAS = ("delta.safetensors", "lowrank.safetensors")
"""Names of a delta in a repository: exact, or factors."""

_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


@runtime_checkable
class Hub(Protocol):
    """The two calls of `huggingface_hub.HfApi` that a push makes."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any:
        """Make the repository, or leave it as it is."""

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> Any:
        """Commit every file of a folder."""


@dataclass(frozen=True)
class Pushing:
    """What would be pushed, and from where."""

    kind: Pushable
    repo: str
    folder: Path
    files: Mapping[str, int]
    """Bytes of each file."""


@contextmanager
def pushing(path: Path, repo: str, run: Path | None = None) -> Iterator[Pushing]:
    """Check what lies at `path`, and lay out for the length of the block what would be pushed.

    Args:
        path: a merged or adapter folder, or a delta, that `export` wrote; or an atlas.
        repo: `owner/name` on the hub.
        run: folder of the run that it comes from; its gate is held against what that has stored.

    Raises:
        GateError: it did not pass its gate; what was written with --force stays here.
        StoreError: it is none of these, has no card, or was changed after it was written.
        ConfigError: `repo` is no `owner/name`.
    """
    if not _ID.fullmatch(repo):
        raise ConfigError(f"{repo!r} is no repository; give owner/name.")
    if path.is_dir() and (path / GATE).is_file():
        kind = _checked_folder(path, run)
        yield Pushing(kind, repo, path, _sizes(path))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        kind = _laid_out(path, folder, repo, run)
        yield Pushing(kind, repo, folder, _sizes(folder))


def push(
    path: Path,
    repo: str,
    *,
    public: bool = False,
    run: Path | None = None,
    hub: Hub | None = None,
) -> str:
    """Upload an export or atlas with its card, into a private repository unless told otherwise.

    Returns:
        The address of the repository.

    Raises:
        LoadingError: there is no token, or the hub cannot be reached or refuses.
        GateError, StoreError, ConfigError: as `pushing`.
    """
    with pushing(path, repo, run) as what:
        return send(what, public=public, hub=hub)


def send(what: Pushing, *, public: bool = False, hub: Hub | None = None) -> str:
    """Upload what `pushing` laid out; the errors are those of `push`."""
    if hub is None and get_token() is None:
        raise LoadingError(
            "there is no hub token: log in with `hf auth login`, or set HF_TOKEN to one that may"
            " write. Nothing was pushed."
        )
    chosen: Hub = HfApi(endpoint=endpoint()) if hub is None else hub
    try:
        chosen.create_repo(what.repo, private=not public, exist_ok=True)
        chosen.upload_folder(
            repo_id=what.repo,
            folder_path=str(what.folder),
            commit_message=f"precise-shield: {what.kind}",
        )
    except (OSError, HFValidationError, ValueError, RuntimeError) as error:
        raise LoadingError(
            f"{what.repo}: the hub cannot be reached or refuses ({first_line(error)}). Check the"
            " network, the token's rights and HF_HUB_OFFLINE, and push again."
        ) from None
    return f"{endpoint() or 'https://huggingface.co'}/{what.repo}"


def endpoint() -> str | None:
    """The hub's address where the environment names another one."""
    return os.environ.get("HF_ENDPOINT")


def fetched_delta(name: str) -> Path:
    """A delta file on this machine: the path given, or the delta of a hub id `owner/name[@commit]`.

    Raises:
        LoadingError: the hub has no such delta, or cannot be reached.
    """
    return _fetched(name, DELTAS, "delta")


def fetched_atlas(name: str) -> Path:
    """An atlas on this machine; see `fetched_delta`."""
    return _fetched(name, ("atlas.safetensors",), "atlas")


def _fetched(name: str, files: tuple[str, ...], what: str) -> Path:
    repo, _, revision = name.partition("@")
    if Path(name).exists() or not _ID.fullmatch(repo) or repo.endswith((".safetensors", ".json")):
        return Path(name)
    for file in files:
        try:
            found = hf_hub_download(repo, file, revision=revision or None, endpoint=endpoint())
            return Path(found)
        except RemoteEntryNotFoundError:
            continue
        except (OSError, HFValidationError, ValueError) as error:
            raise LoadingError(
                f"{name}: there is no such file here, and the hub gives no {what} of that name"
                f" ({first_line(error)}). Give a path, or owner/name[@commit]."
            ) from None
    raise LoadingError(f"{name} on the hub holds none of {', '.join(files)}, so no {what}.")


def _sizes(folder: Path) -> dict[str, int]:
    """Everything that an upload of the folder sends, by its path in it."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}


def _checked_folder(path: Path, run: Path | None) -> Pushable:
    content = read_json(path / GATE)
    try:
        facts = GateFacts.model_validate(content["gate"])
        hashes: dict[str, str] = content["sha256"]
    except (KeyError, TypeError, ValidationError) as error:
        raise StoreError(f"{path / GATE} cannot be read ({type(error).__name__}).") from error
    _must_be_judged(facts, StoredReceipt.load(path / "receipt.json"), path, run)
    weights = {name for name in _sizes(path) if name.lower().endswith(WEIGHTS)}
    there = weights | {file for file in SPOKEN_FOR if (path / file).is_file()} | {"receipt.json"}
    if odd := sorted(there ^ hashes.keys()):
        raise StoreError(f"{path}: {odd[0]} is not among the files that its gate speaks for.")
    if moved := sorted(name for name in hashes if file_hash(path / name) != hashes[name]):
        raise StoreError(f"{path}: {moved[0]} was changed after its gate; export it again.")
    _must_have_card(path / "README.md")
    return "adapter" if (path / "adapter_config.json").is_file() else "model"


def _must_have_card(path: Path) -> None:
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if THREAT_MODEL not in text or "## Measured" not in text:
        raise StoreError(
            f"{path} is missing, or lacks the measured table or the limits of the protection."
            " Nothing is pushed without them; add to the card what you like, below."
        )


def _must_be_judged(facts: GateFacts, stored: StoredReceipt, path: Path, run: Path | None) -> None:
    must_hold(facts, stored, path.name)
    if run is not None:
        must_be_of(facts, run, path.name)
    if not facts.passed:
        reasons = facts.weaker or "; ".join(limit.sentence for limit in facts.broken)
        raise GateError(
            f"{facts.condition} did not pass its gate ({reasons}). What was written with --force"
            " can be looked at here; it is never pushed."
        )


def _laid_out(path: Path, folder: Path, repo: str, run: Path | None) -> Pushable:
    with readable_errors(folder):
        if path.name == "atlas.safetensors" or (path / "atlas.safetensors").is_file():
            atlas = Atlas.load(path)
            home = path if path.is_dir() else path.parent
            for file in ("atlas.safetensors", "atlas.json"):
                if (home / file).is_file():
                    shutil.copyfile(home / file, folder / file)
            (folder / "README.md").write_text(_atlas_card(atlas, repo), encoding="utf-8")
            return "atlas"
        if not path.is_file():
            raise StoreError(
                f"{path} is no export that passed a gate (no {GATE}), no delta and no atlas. Push"
                " what `precise-shield export` or `identify` wrote."
            )
        found = read_delta(path)
        card, stored, facts = passport_of(path, found.recipe)
        _must_be_judged(facts, stored, path, run)
        small = isinstance(found, LowRank)
        if isinstance(found, SparseDelta):
            found.agrees(stored.written, str(path))
        name = DELTAS[small]
        shutil.copyfile(path, folder / name)
        (folder / "receipt.json").write_text(
            json.dumps(stored.content(), indent=1) + "\n", encoding="utf-8"
        )
        (folder / "README.md").write_text(
            card.markdown(stored, library="precise-shield") + _use(repo, card.base),
            encoding="utf-8",
        )
        stamp(folder, facts)
        return "low-rank delta" if small else "delta"


def _use(repo: str, base: str) -> str:
    return (
        "\n## Use\n\nThis is a change of rows, not a model. Put it into its base model with\n\n"
        f"```\nprecise-shield apply {repo} {base} OUT\n```\n"
    )


def _atlas_card(atlas: Atlas, repo: str) -> str:
    sizes = "\n".join(f"| {name} | {len(one):,} |" for name, one in sorted(atlas.sets.items()))
    about = json.dumps(dict(atlas.about), indent=1, ensure_ascii=False)
    return f"""---
library_name: precise-shield
tags: [safety, interpretability]
---

# Atlas of safety neurons

Which units of a model tell harmful from benign inputs apart, by language and modality; units of
{len(atlas.widths)} sites were searched. The set `{atlas.chosen}` is the one that was verified and
tuned. Whoever holds a model's weights can use this to weaken it as well as to strengthen it, as
they can find these units themselves. A contrast finds units that go with refusing; that they cause
it is another measurement.

| set | units |
|---|---|
{sizes}

```json
{about}
```

`precise-shield atlas {repo}` shows it; `precise_shield.api.load_atlas` reads it.
"""
