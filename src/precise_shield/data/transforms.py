"""The field's evaluation transforms of a manifest: the same requests in another dress.

They are the published, fixed ones. Nothing here searches for a string that works. Groups and splits
stay, so a rendering of a trained request is never tested.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from precise_shield.core.errors import ConfigError, DataError
from precise_shield.core.images import open_image
from precise_shield.core.records import Example, Form, Split, write_rows
from precise_shield.core.registry import Registry
from precise_shield.core.store import readable_errors
from precise_shield.data.manifest import Loaded, OnBadRow, Problem, finish
from precise_shield.data.typeset.lines import clusters, units
from precise_shield.data.typeset.picture import text_picture, under


class TransformOptions(BaseModel):
    """How requests are dressed."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    splits: tuple[Split, ...] = ()
    """Transform only rows of these splits; others pass unchanged. Empty transforms all."""

    keep: bool = False
    """Keep the rows as they were, too."""

    words: dict[str, str] = Field(default_factory=dict)
    """By language: what stands beside the picture, or how the answer opens."""

    languages: tuple[str, ...] = ()
    """For `code_switch`: the languages mixed, the row's own first. At least two."""

    pieces: int = Field(default=4, ge=2)
    """For `code_switch`: how many pieces a request is cut into."""

    fonts: dict[str, str] = Field(default_factory=dict)
    """Font files by script (`arabic`, `thai`, …) or `default`."""

    width: int = Field(default=768, ge=64, le=4096)
    """Of a picture, in pixels."""

    height: int | None = Field(default=None, ge=64, le=4096)
    """Of a picture; the text shrinks to fit. None: as high as the text."""

    size: int = Field(default=48, ge=8, le=400)
    """Of the letters, in pixels."""


Transform = Callable[[Sequence[Example], TransformOptions, Path], Iterator[Example | Problem]]
"""Rows, options and a folder for pictures, to a row or the problem of one, in order."""

TRANSFORMS: Registry[Transform] = Registry("transform")


def transformed(
    name: str,
    examples: Sequence[Example],
    options: TransformOptions,
    folder: Path,
    on_bad_row: OnBadRow = "stop",
) -> Loaded:
    """Dress requests anew; ids get the transform's name, pictures go to `folder`.

    Raises:
        ConfigError: no such transform.
        DataError: a row cannot be transformed and bad rows stop, or no row is left.
        StoreError: a picture cannot be written.
    """
    chosen = [row for row in examples if not options.splits or row.split in options.splits]
    done: list[Example] = []
    problems: list[Problem] = []
    with readable_errors(folder):
        for each in TRANSFORMS[name](chosen, options, folder):
            if isinstance(each, Problem):
                problems.append(replace(each, place=f"{name} {each.place}"))
            else:
                done.append(replace(each, id=f"{each.id}+{name}"))
    gone = {row.id for row in chosen} if not options.keep else set()
    rest = [row for row in examples if row.id not in gone]
    found = finish(Path(f"transform {name}"), done, problems, on_bad_row)
    return Loaded([*rest, *found.examples], found.dropped)


def save_manifest(examples: Sequence[Example], path: Path) -> None:
    """Write examples as a JSON Lines manifest; pictures must lie in its folder.

    Raises:
        DataError: a picture lies elsewhere.
        ConfigError: the file exists or is no .jsonl.
        StoreError: it cannot be written.
    """
    if path.exists() or path.suffix != ".jsonl":
        raise ConfigError(f"{path} exists or does not end in .jsonl; name a new .jsonl file.")
    home = path.parent.resolve()
    rows = []
    for row in examples:
        if row.image is not None:
            image = Path(row.image).resolve()
            if not image.is_relative_to(home):
                raise DataError(
                    f"picture {image} of {row.id!r} lies outside of {home}; write there."
                )
            rows.append(replace(row, image=image.relative_to(home).as_posix()))
        else:
            rows.append(row)
    with readable_errors(path.parent):
        write_rows(path, rows)


@cache
def _words() -> Mapping[str, Mapping[str, str]]:
    file = resources.files("precise_shield.data").joinpath("transforms.yaml")
    words: dict[str, dict[str, str]] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return words


def words_for(kind: str, language: str, options: TransformOptions) -> str:
    """The words of a transform in a language.

    Raises:
        DataError: there are none; English beside another language would mix two effects.
    """
    known = {**_words()[kind], **options.words}
    for tag in (language, language.split("-")[0]):
        if tag in known:
            return known[tag]
    raise DataError(
        f"no words for {kind} in {language!r}; give them with words={{{language}: …}}."
        f" There are: {', '.join(sorted(known))}"
    )


def _each(
    rows: Sequence[Example], work: Callable[[Example], Example]
) -> Iterator[Example | Problem]:
    for number, row in enumerate(rows, 1):
        try:
            yield work(row)
        except DataError as error:
            yield Problem(number, f"{row.id!r}: {error}")


def _written(row: Example, image: Image.Image, folder: Path, form: Form, prompt: str) -> Example:
    """Save a picture under a name that its pixels make, and put it into the row."""
    name = sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()[:24]
    path = folder / f"{name}.png"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        image.save(partial, format="PNG")
        partial.replace(path)
    return replace(
        row,
        image=str(path.resolve()),
        form=form,
        modality="image_dominant",
        prompt=prompt,
        request=row.asked,
    )


def _drawn(text: str, row: Example, options: TransformOptions) -> Image.Image:
    if row.modality == "image_dominant":
        raise DataError("the risk is in its picture, which this would replace; take `mixed`")
    return text_picture(
        text,
        row.language,
        width=options.width,
        height=options.height,
        size=options.size,
        fonts=options.fonts,
    )


def _typed(
    rows: Sequence[Example], options: TransformOptions, folder: Path, words: str, after: str = ""
) -> Iterator[Example | Problem]:
    """The request and what comes `after` it as a picture; `words` name what is said beside it."""

    def work(row: Example) -> Example:
        image = _drawn(row.prompt + after, row, options)
        said = words_for(words, row.language, options)
        return _written(row, image, folder, "typography", said)

    return _each(rows, work)


@TRANSFORMS.register("typography")
def typography(
    rows: Sequence[Example], options: TransformOptions, folder: Path
) -> Iterator[Example | Problem]:
    """The request as a picture of its text (MM-SafetyBench's TYPO; Precise Shield's typography)."""
    return _typed(rows, options, folder, "typography")


@TRANSFORMS.register("figstep")
def figstep(
    rows: Sequence[Example], options: TransformOptions, folder: Path
) -> Iterator[Example | Problem]:
    """The request as the title of a list whose items 1 to 3 are empty (Gong et al. 2023)."""
    return _typed(rows, options, folder, "figstep", after="\n1.\n2.\n3.")


@TRANSFORMS.register("mixed")
def mixed(
    rows: Sequence[Example], options: TransformOptions, folder: Path
) -> Iterator[Example | Problem]:
    """The row's picture with its request as a caption under it (MM-SafetyBench's SD_TYPO)."""

    def work(row: Example) -> Example:
        if row.image is None:
            raise DataError("has no picture to put a caption under; take `typography`")
        text = text_picture(
            row.prompt, row.language, width=options.width, size=options.size, fonts=options.fonts
        )
        both = under(open_image(row.image), text)
        said = words_for("typography", row.language, options)
        return _written(row, both, folder, "mixed", said)

    return _each(rows, work)


@TRANSFORMS.register("prefill")
def prefill(
    rows: Sequence[Example], options: TransformOptions, folder: Path
) -> Iterator[Example | Problem]:
    """The answer begins affirmatively, put into the model's mouth (Andriushchenko et al. 2024)."""

    def work(row: Example) -> Example:
        return replace(row, prefill=words_for("prefill", row.language, options))

    return _each(rows, work)


@TRANSFORMS.register("code_switch")
def code_switch(
    rows: Sequence[Example], options: TransformOptions, folder: Path
) -> Iterator[Example | Problem]:
    """Pieces of a request in turn from its translations (cf. Yoo et al. 2024, CSRT).

    CSRT lets a model blend languages; this does it from parallel rows without one: each
    translation is cut into equally many pieces of about equal length, and piece i comes from
    language i modulo their number. Where word order differs, a piece may repeat or miss a word. A
    row stays in the first language's cell; rows of languages that are not mixed are left out.
    """
    if len(set(options.languages)) < 2:
        raise ConfigError("code_switch needs languages, at least two, e.g. [en, sw]")
    parallel: defaultdict[tuple[str, str, Any], dict[str, Example]] = defaultdict(dict)
    for number, row in enumerate(rows, 1):
        translations = parallel[row.group, row.modality, row.form]
        if row.language in translations and row.language in options.languages:
            twin = translations[row.language].id
            yield Problem(number, f"{row.id!r} and {twin!r} are one group, language and form")
        translations.setdefault(row.language, row)
    for number, translations in enumerate(parallel.values(), 1):
        missing = [tag for tag in options.languages if tag not in translations]
        if missing:
            name = next(iter(translations.values())).group
            yield Problem(number, f"group {name!r} has no {', '.join(missing)}", "groups")
            continue
        cut = [cut_into(translations[tag].prompt, options.pieces) for tag in options.languages]
        parts = [cut[at % len(cut)][at] for at in range(options.pieces)]
        words = " ".join(part.strip() for part in parts if part.strip())
        first = translations[options.languages[0]]
        yield replace(first, prompt=words, request=first.asked)


def cut_into(text: str, pieces: int) -> list[str]:
    """Cut a text into pieces of about equal length, between words or, without, clusters."""
    parts = units(" ".join(text.split()))
    if len(parts) < pieces:
        parts = [each for part in parts for each in clusters(part)]
    total = sum(map(len, parts))
    found = [""] * pieces
    before = 0
    for part in parts:
        middle = before + len(part) / 2
        found[min(pieces - 1, int(middle * pieces / total))] += part
        before += len(part)
    return found
