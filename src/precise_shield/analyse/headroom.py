"""What linear probes say of each cell, and of all cells together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from precise_shield.analyse.probes import (
    Arms,
    auc_interval,
    aucs,
    probe_scores,
    resampled,
    shuffled_labels,
    wins,
)
from precise_shield.core.rates import or_null
from precise_shield.core.records import Modality
from precise_shield.core.summary.headroom import HeadroomRow, ProbeContrast, ProbeVerdict

FEWEST = 4
"""Groups of each harm below which no probe is judged."""

ALPHA = 0.05


@dataclass(frozen=True)
class Setting:
    """What is the same for all cells of one condition and position."""

    condition: str
    position: str
    shrinkage: float
    draws: int
    seed: int


@dataclass(frozen=True)
class Probed:
    """One cell's probes, with what the mean over cells needs of them."""

    row: HeadroomRow
    every: Float[Tensor, "layers draws"]
    """AUC with the labels as they are, then with each shuffle."""
    table: Float[Tensor, "layers ones zeros"]
    groups: tuple[list[str], list[str]]


def group_keys(groups: Sequence[str], draws: int, seed: int) -> dict[str, Float[Tensor, " draws"]]:
    """Random numbers by which `shuffled_labels` shuffles; a function of the sorted names."""
    names = sorted(set(groups))
    table = torch.rand(len(names), draws, generator=torch.Generator().manual_seed(seed))
    return dict(zip(names, table, strict=True))


def probed(
    place: tuple[str, Modality],
    contrast: ProbeContrast,
    fit: Arms,
    test: Arms,
    fitted_on: Literal["the same kind", "all benign"],
    keys: dict[str, Float[Tensor, " draws"]],
    setting: Setting,
) -> Probed | None:
    """Fit and test a cell's probes, layer by layer; None where an arm is empty."""
    sides = [arms.count(harm) for arms in (fit, test) for harm in (True, False)]
    if not all(sides):
        return None
    labels = torch.cat([fit.harmful[None], shuffled_labels(fit, keys)])
    scores = probe_scores(fit, test.states, labels, setting.shrinkage)
    every = aucs(scores, test.harmful)
    ones, zeros = sides[2:]
    ends = [auc_interval(float(value), ones, zeros) for value in every[:, 0]]
    names = list(test.groups)
    groups = tuple(
        [name for name, harm in zip(names, test.harmful.tolist(), strict=True) if harm == side]
        for side in (True, False)
    )
    row = _row(
        every, ends, setting, contrast, place,
        (len(fit.harmful), ones, zeros), fitted_on, min(sides) < FEWEST,
    )  # fmt: skip
    return Probed(row, every, wins(scores[:, 0], test.harmful), (groups[0], groups[1]))


def mean_row(cells: Sequence[Probed], setting: Setting) -> HeadroomRow | None:
    """The mean AUC over cells, its interval from resampling groups; None without cells."""
    judged = [cell for cell in cells if cell.row.verdict != "too few"] or list(cells)
    if not judged:
        return None
    every = torch.stack([cell.every for cell in judged]).mean(0)
    drawn = resampled(
        [cell.table for cell in judged], [cell.groups for cell in judged], 200, setting.seed
    )
    low, high = (drawn.nanquantile(q, 0) for q in (0.025, 0.975))
    ends = list(zip(low.tolist(), high.tolist(), strict=True))
    sizes = [len({g for cell in judged for g in cell.groups[side]}) for side in range(2)]
    first = judged[0].row
    fitted = sum(cell.row.fitted for cell in judged)
    few = all(cell.row.verdict == "too few" for cell in judged)
    return _row(
        every, ends, setting, first.contrast, None, (fitted, sizes[0], sizes[1]),
        first.fitted_on, few,
    )  # fmt: skip


def _row(
    every: Float[Tensor, "layers draws"],
    ends: Sequence[tuple[float, float]],
    setting: Setting,
    contrast: ProbeContrast,
    place: tuple[str, Modality] | None,
    sizes: tuple[int, int, int],
    fitted_on: Literal["the same kind", "all benign"],
    few: bool,
) -> HeadroomRow:
    found, drawn = every[:, 0], every[:, 1:]
    best = int(found.argmax())
    beaten = int((drawn.amax(0) >= found[best] - 1e-9).sum())
    p = (1 + beaten) / (1 + drawn.shape[1])
    verdict: ProbeVerdict = "apart" if p <= ALPHA else "not shown apart"
    return HeadroomRow(
        condition=setting.condition,
        position=setting.position,
        contrast=contrast,
        language=None if place is None else place[0],
        modality=None if place is None else place[1],
        fitted=sizes[0],
        fitted_on=fitted_on,
        harmful=sizes[1],
        benign=sizes[2],
        auc=_listed(found),
        low=[or_null(low) for low, _ in ends],
        high=[or_null(high) for _, high in ends],
        shuffled=_listed(drawn.mean(1)),
        shuffled_high=_listed(drawn.quantile(0.95, 1)),
        best_layer=best,
        p_value=or_null(p),
        verdict="too few" if few else verdict,
    )


def _listed(values: Float[Tensor, " layers"]) -> list[float | None]:
    return [or_null(float(value)) for value in values]


def sentence(rows: Sequence[HeadroomRow]) -> tuple[str, bool]:
    """What the rows of one condition say, and whether that warns against training."""
    means = {row.contrast: row for row in rows if row.language is None}
    hardest = means.get("matched") or means.get("ordinary")
    if hardest is None:
        return "Headroom was not measured: a split lacks harmful or benign requests.", False
    parts = [_told(means[kind], rows) for kind in _TOLD if kind in means]
    blind = hardest.verdict == "not shown apart"
    if blind:
        twin = "its harmless twin" if hardest.contrast == "matched" else "a benign request"
        parts.append(
            f"The model was not shown to tell a hazard from {twin}: tuning a few neurons can then"
            " only teach it to refuse both."
        )
    elif hardest.contrast == "ordinary":
        parts.append("There are no topic-matched benign requests, so topic alone may tell them.")
    return " ".join(parts), blind


_TOLD: dict[ProbeContrast, str] = {
    "matched": "topic-matched benign requests",
    "ordinary": "other benign requests",
}


def _told(mean: HeadroomRow, rows: Sequence[HeadroomRow]) -> str:
    cells = [r for r in rows if r.language is not None and r.contrast == mean.contrast]
    judged = [r for r in cells if r.verdict != "too few"]
    apart = sum(r.verdict == "apart" for r in judged)
    k = mean.best_layer or 0
    auc, low, high, level = (
        nan if column[k] is None else float(column[k] or 0.0)
        for column in (mean.auc, mean.low, mean.high, mean.shuffled)
    )
    missing = sorted(f"{r.language}/{r.modality}" for r in judged if r.verdict != "apart")
    names = ", ".join(missing[:6]) + (f" and {len(missing) - 6} more" if len(missing) > 6 else "")
    tail = f" (not shown in {names})" if missing else ""
    few = (
        f"; {len(cells) - len(judged)} more have too few groups" if len(cells) > len(judged) else ""
    )
    beyond = (
        f"beyond shuffled labels in {apart} of {len(judged)} languages and modalities{tail}{few}"
        if judged
        else f"each language and modality has fewer than {FEWEST} groups, too few to judge"
    )
    return (
        f"A linear probe of the residual stream at {mean.position} tells harmful from"
        f" {_TOLD[mean.contrast]} with AUC {auc:.2f} [{low:.2f}, {high:.2f}] in layer {k}, shuffled"
        f" labels {level:.2f}; {beyond}."
    )
