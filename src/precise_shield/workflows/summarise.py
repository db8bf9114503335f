"""Gather a run's artefacts into `summary.json`."""

from __future__ import annotations

import datetime as dt
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from precise_shield import __version__
from precise_shield.core.sites import NeuronSet
from precise_shield.core.summary import (
    Claim,
    DataFacts,
    Explained,
    GateFacts,
    ModelFacts,
    NeuronFacts,
    Receipt,
    SearchFacts,
    Summary,
    Verification,
)
from precise_shield.data.contrast import fingerprint
from precise_shield.evaluate.counting.rules import RULES
from precise_shield.models.holding.packed import count
from precise_shield.workflows.align.arms import Arm
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.base.data_notes import data_notes
from precise_shield.workflows.claims.explained import explained_claims
from precise_shield.workflows.claims.more import further_claims
from precise_shield.workflows.claims.papers import claims
from precise_shield.workflows.evaluate.audit import audit
from precise_shield.workflows.evaluate.factors import Seen, factor_rows
from precise_shield.workflows.evaluate.stage import Evaluation, samples
from precise_shield.workflows.evaluate.transfer import transfer
from precise_shield.workflows.explain.stage import by_kind
from precise_shield.workflows.identify.stage import Atlas, identified


def summarise(
    run: Run,
    atlas: Atlas,
    facts: NeuronFacts,
    verified: Verification,
    arms: list[Arm],
    found: Evaluation,
    explained: Explained,
    gates: list[GateFacts],
    searched: SearchFacts | None,
) -> Summary:
    """Everything the run measured, in the form that the report reads and `summary.json` keeps."""
    drift = {name: kl for name, kl in found.benign_kl.items() if kl == kl}
    return evaluation_summary(
        run,
        found,
        _model(run, atlas),
        facts.model_copy(update={"identified": identified(run).key}),
        ("torch", "transformers", "tokenizers", "numpy"),
        transfer=transfer(found),
        audit=audit(run, atlas, arms[0]) if run.config.evaluate.audit else None,
        factors=factor_rows(
            [Seen(found.examples, found.conditions, found.every_verdict(), found.rule)]
        ),
        verification=verified.model_copy(update={"benign_kl": drift}),
        receipts=[arm.receipt for arm in arms],
        explained=explained,
        gate=gates,
        search=searched,
        claims=[
            *claims(run.config, found, facts, verified),
            *explained_claims(facts, explained),
            *further_claims(found),
        ],
    )


def evaluation_summary(
    run: Run,
    found: Evaluation,
    model: ModelFacts,
    neurons: NeuronFacts,
    packages: Sequence[str],
    *,
    verification: Verification | None = None,
    receipts: Sequence[Receipt] = (),
    claims: Sequence[Claim] = (),
    **further: Any,
) -> Summary:
    """What any evaluation says of a run, with what else was measured beside it.

    Args:
        run: what was configured, what its stages cost, what was left out.
        found: answers, verdicts and what follows from them.
        model: whose answers they are.
        neurons: what was chosen in it.
        packages: whose versions the figures depend on, besides Python's and this package's.
        verification: what suppressing the neurons did; None where it was not tried.
        receipts: of the alignments.
        claims: the sentences that the figures support or not.
        further: other fields of `Summary`.
    """
    config = run.config
    return Summary(
        name=config.name,
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        judge=found.judging.primary,
        rule=RULES[found.rule].meaning,
        model=model,
        data=_data(run, found),
        data_notes=data_notes(run),
        conditions=found.conditions,
        rates=found.rates,
        differences=found.differences,
        gaps=found.gaps(),
        judging=found.judging,
        headlines=found.headlines,
        utility=found.utility,
        neurons=neurons,
        verification=verification,
        receipts=list(receipts),
        claims=list(claims),
        costs=run.costs,
        samples=samples(run, found),
        seeds={"seed": config.seed},
        versions={"precise-shield": __version__, "python": platform.python_version()}
        | {name: version(name) for name in packages},
        warnings=run.warnings,
        config=config.model_dump(mode="json"),
        **further,
    )


def _model(run: Run, atlas: Atlas) -> ModelFacts:
    loaded = run.loaded
    return ModelFacts(
        path=_shown(run.config.model.path),
        revision=run.config.model.revision,
        model_type=loaded.model_type,
        fingerprint=loaded.fingerprint,
        parameters=count(loaded.model),
        layers=len({(site.tower, site.layer) for site in atlas.widths}),
        neurons=sum(atlas.widths.values()),
        units=by_kind(
            NeuronSet.of({site: range(width) for site, width in atlas.widths.items()}),
            atlas.widths,
        ),
        dtype=str(loaded.model.dtype).removeprefix("torch."),
        device=str(loaded.device if loaded.device.type == "cpu" else torch.cuda.get_device_name())
        if loaded.device.type in {"cpu", "cuda"}
        else str(loaded.device),
    )


def _shown(path: str) -> str:
    """A model's name without the folders of this machine."""
    return Path(path).name if Path(path).exists() else path


def _data(run: Run, found: Evaluation) -> DataFacts:
    counts: dict[str, int] = {}
    for example in run.data.examples:
        key = f"{example.split}/{example.harm}"
        counts[key] = counts.get(key, 0) + 1
    return DataFacts(
        fingerprint=fingerprint(run.data.examples),
        counts=counts,
        languages=sorted({example.language for example in run.data.examples}),
        modalities=sorted({example.modality for example in run.data.examples}),
        dropped=run.dropped_rows,
        labels=found.labels(),
    )
