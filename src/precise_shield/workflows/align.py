"""Train exactly the chosen neurons, and beside them the controls without which it is no claim."""

from __future__ import annotations

from precise_shield.core.errors import EmptyCellError
from precise_shield.core.records import Example, Modality
from precise_shield.core.summary import Condition
from precise_shield.identify.select import evaluate, require
from precise_shield.workflows.arms import Arm, train
from precise_shield.workflows.context import Run, wanted
from precise_shield.workflows.controls import control
from precise_shield.workflows.identify import Atlas, identify


def align(run: Run) -> list[Arm]:
    """Train the chosen neurons, the random-row controls and the zero-shot arms.

    Every arm has the same budget and the same settings; the model is as it came afterwards.

    Raises:
        EmptyCellError: no training rows are left for an arm.
        ReceiptError: something outside the chosen rows moved.
    """
    atlas, section = identify(run), run.config.align
    everything = _rows(run, section.languages, section.modalities)
    tuned = Condition(
        name="aligned",
        kind="aligned",
        label="safety neurons tuned",
        note=f"{len(atlas.neurons)} neurons of {atlas.chosen}, {len(everything)} rows",
    )
    arms = [train(run, tuned, atlas.neurons, everything)]
    for seed in range(section.random_seeds):
        drawn = control(run, atlas, atlas.neurons, seed)
        beside = Condition(
            name=f"random-rows-{seed}",
            kind="random_rows",
            label="random neurons tuned" + (f", seed {seed}" if seed else ""),
            note="as many other neurons of the same layers, same rows, same budget",
        )
        arms.append(train(run, beside, drawn, everything))
    for part in section.zero_shot:
        arms.append(_zero_shot(run, atlas, part.name, part.chosen, part.languages, part.modalities))
    return arms


def _zero_shot(
    run: Run,
    atlas: Atlas,
    name: str,
    chosen: str | None,
    languages: list[str] | None,
    modalities: list[Modality] | None,
) -> Arm:
    rows = _rows(run, languages, modalities)
    which = chosen or atlas.chosen
    neurons = require(which, evaluate(which, atlas.sets), atlas.sets)
    seen = f"{', '.join(languages or ['all languages'])}; {', '.join(modalities or ['all'])}"
    condition = Condition(
        name=name,
        kind="zero_shot",
        label=f"tuned on {seen} only",
        note=f"{len(neurons)} neurons of {which}, {len(rows)} rows; the rest is zero-shot",
    )
    return train(run, condition, neurons, rows)


def _rows(
    run: Run, languages: list[str] | None, modalities: list[Modality] | None
) -> list[Example]:
    rows = [
        example
        for example in run.examples(*run.config.align.splits)
        if wanted(example, languages, modalities)
    ]
    harms = {row.harm for row in rows}
    if harms != {"harmful", "benign"}:
        raise EmptyCellError(
            f"training on languages {languages} and modalities {modalities} needs harmful and"
            f" benign rows, found {len(rows)} rows of {sorted(harms) or 'neither'}."
        )
    return rows
