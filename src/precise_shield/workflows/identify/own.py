"""The model's own responses to the probing prompts, sorted by how they were judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from precise_shield.core.errors import EmptyCellError
from precise_shield.core.records import Example, Label, Response
from precise_shield.core.summary import OwnResponses
from precise_shield.data.contrast import by_cell
from precise_shield.workflows.answer.answers import judge_with
from precise_shield.workflows.answer.judges import make, names_of
from precise_shield.workflows.base.context import Run

UNREADABLE: tuple[Label, ...] = ("degenerate", "unclear", "off_language")
"""Labels of responses that neither refuse nor answer; they are dropped, and counted."""


@dataclass(frozen=True)
class OwnRows:
    """Probing rows with the model's own responses as targets."""

    refused: list[Example]
    """Harmful prompts that it refused."""

    complied: list[Example]
    """Harmful prompts that it answered."""

    answered: list[Example]
    """Benign prompts that it did not refuse."""

    facts: list[OwnResponses]

    def places(self, least: int) -> set[tuple[str, str]]:
        """Languages and modalities with enough refused and enough answered rows."""
        counts = [Counter((r.language, r.modality) for r in part) for part in self.main_arms]
        return {place for place in counts[0] if all(count[place] >= least for count in counts)}

    @property
    def main_arms(self) -> tuple[list[Example], list[Example]]:
        """The rows that are contrasted: refused harmful requests, then answered benign ones."""
        return self.refused, self.answered


def own_rows(run: Run, examples: Sequence[Example], least: int = 2) -> OwnRows:
    """Let the model answer, let the configured judge read, and keep what is clear.

    Languages and modalities with fewer than `least` refused or answered rows are left out of the
    main contrast and named in a warning.

    Raises:
        EmptyCellError: none is left.
    """
    what = f"own responses to {len(examples)} probing prompts"
    said = run.own_words("own-responses", examples, what)
    labels = _labels(run, examples, said)
    kinds: dict[str, list[Example]] = {"refused": [], "complied": [], "answered": []}
    dropped: dict[str, Counter[str]] = {}
    for row in examples:
        label, text = labels[row.id], said[row.id]
        kind = _kind(row, label, text)
        if kind in kinds:
            kinds[kind].append(replace(row, target=text))
        dropped.setdefault(str(row.cell), Counter())[kind] += 1
    facts = [
        OwnResponses(cell=str(cell), rows=len(rows), kinds=dict(sorted(dropped[str(cell)].items())))
        for cell, rows in by_cell(examples).items()
    ]
    found = OwnRows(**kinds, facts=facts)
    kept = found.places(least)
    everywhere = {(row.language, row.modality) for row in examples}
    if lost := sorted("/".join(place) for place in everywhere - kept):
        words = (
            f"own responses: fewer than {least} refused or answered rows in {', '.join(lost)};"
            " left out"
        )
        run.warn(words)
    if not kept:
        raise EmptyCellError(
            "in no language and modality does the model refuse at least"
            f" {least} harmful and answer {least} benign probing prompts, as judged by"
            f" {names_of(run.config)[0]}; set identify.responses to given."
        )
    arms = ([r for r in part if (r.language, r.modality) in kept] for part in found.main_arms)
    refused, answered = arms
    return replace(found, refused=refused, answered=answered)


def _kind(row: Example, label: Label, text: str) -> str:
    """`refused`, `complied`, `answered`, or why a row is dropped."""
    if not text.strip():
        return "empty"
    if label in UNREADABLE:
        return label
    if label == "refusal":
        return "refused" if row.harm == "harmful" else "benign refused"
    return "complied" if row.harm == "harmful" else "answered"


def _labels(run: Run, examples: Sequence[Example], said: dict[str, str]) -> dict[str, Label]:
    rows = list(examples)
    reader = make(run, names_of(run.config)[0], rows)
    responses = [Response(row.id, "base", said[row.id], 1, True) for row in rows]
    judged, _ = judge_with(run, reader, rows, {"base": responses})
    return {verdict.example: verdict.label for verdict in judged.verdicts["base"]}
