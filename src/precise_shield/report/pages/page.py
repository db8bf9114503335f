"""A summary as one self-contained HTML page, as Markdown, and as single figures."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from markupsafe import Markup

from precise_shield.core.store import readable_errors, write_whole
from precise_shield.core.summary import Condition, ConditionKind, Summary
from precise_shield.report.checks.audit import audit_tables
from precise_shield.report.checks.causal import causal_figures
from precise_shield.report.checks.data_notes import data_tables
from precise_shield.report.checks.factors import factor_tables
from precise_shield.report.checks.gate import gate_tables
from precise_shield.report.checks.judging import judging_tables
from precise_shield.report.checks.search import search_figure
from precise_shield.report.drawing.figure import Figure
from precise_shield.report.drawing.palette import palette_css
from precise_shield.report.drawing.standalone import standalone
from precise_shield.report.neurons.anatomy import (
    curve_figure,
    sets_table,
    weights_figure,
)
from precise_shield.report.neurons.dynamics import influence_figure, writes_table
from precise_shield.report.neurons.headroom import headroom_figure
from precise_shield.report.neurons.local import local_figure
from precise_shield.report.neurons.overlap import modality_figure, overlap_figure
from precise_shield.report.neurons.profile import counts_figure, private_figure, profile_figure
from precise_shield.report.neurons.sureness import own_table, sureness_figures
from precise_shield.report.numbers.tables import (
    claims_table,
    config_text,
    costs_table,
    data_facts,
    gap_table,
    labels_table,
    model_facts,
    pairs_table,
    run_facts,
)
from precise_shield.report.numbers.view import View
from precise_shield.report.pages.compare import comparison
from precise_shield.report.pages.environment import environment
from precise_shield.report.pages.evidence import (
    attack_table,
    believe_findings,
    changed_findings,
    where_findings,
)
from precise_shield.report.pages.markdown import render_markdown
from precise_shield.report.pages.samples import shown_samples
from precise_shield.report.safety.figures import (
    forest_figure,
    measures_figure,
    rate_maps,
    suppression_figure,
)
from precise_shield.report.safety.headline import safer_findings, verdict
from precise_shield.report.safety.headlines import headline_tables
from precise_shield.report.safety.tiles import tiles
from precise_shield.report.safety.transfer import transfer_figure
from precise_shield.report.safety.utility import utility_tables

__all__ = ["figures_of", "render_html", "render_markdown", "write_report"]


@dataclass(frozen=True)
class Figures:
    """The figures of a run, by the question that they answer. None: not measured."""

    safer: tuple[Figure, ...]
    believe: tuple[Figure, ...]
    changed: tuple[Figure, ...]
    where: tuple[Figure, ...]

    @property
    def all(self) -> tuple[Figure, ...]:
        return self.safer + self.believe + self.changed + self.where


def figures_of(summary: Summary) -> Figures:
    """Draw everything that the summary has numbers for."""
    view = View(summary)
    return Figures(
        _present(
            [
                _maps(view, ("base", "aligned", "random_rows"), "attack-success"),
                measures_figure(view),
            ]
        ),
        _present(
            [
                forest_figure(view),
                suppression_figure(view),
                *causal_figures(view),
                _maps(view, ("suppressed", "random_suppressed"), "switched-off"),
            ]
        ),
        _present([weights_figure(view), search_figure(view)]),
        _present(
            [
                headroom_figure(view),
                profile_figure(view),
                counts_figure(view),
                overlap_figure(view),
                modality_figure(view),
                private_figure(view),
                influence_figure(view),
                curve_figure(view),
                *sureness_figures(view),
                local_figure(view),
                _maps(view, ("zero_shot", "assembled"), "transfer"),
                transfer_figure(view),
            ]
        ),
    )


_MAPS = {
    "attack-success": (
        "Attack success by language and modality",
        "Percent of harmful requests whose answer is a hit, with its 95 % interval; stronger"
        " colour is worse.",
    ),
    "switched-off": (
        "Attack success with neurons switched off",
        "The untouched model beside itself with the safety set, and with a random set, silenced"
        " while it answers.",
    ),
    "transfer": (
        "Zero-shot transfer",
        "Tuned in one place, asked in all others; the untouched model beside it.",
    ),
}
"""Title and lead of each figure of heat maps."""


def _maps(view: View, kinds: Sequence[ConditionKind], name: str) -> Figure | None:
    """Heat maps of the conditions of these kinds, one of each control, beside the base."""
    special = [c for kind in kinds if kind != "base" for c in _of_kind(view, kind)]
    base = view.of_kind("base")[:1]
    if not special and "base" not in kinds:
        return None
    return rate_maps(view, [*base, *special], name, *_MAPS[name])


def _of_kind(view: View, kind: ConditionKind) -> list[Condition]:
    found = view.of_kind(kind)
    return found[:1] if kind in ("random_rows", "random_suppressed") else found


def _present(figures: Sequence[Figure | None]) -> tuple[Figure, ...]:
    return tuple(figure for figure in figures if figure is not None)


def render_html(summary: Summary, compare: Summary | None = None) -> str:
    """The report as one HTML page that loads nothing from anywhere.

    Args:
        summary: what the run measured.
        compare: a second run, shown beside the first.

    Returns:
        The page. Equal summaries give equal pages; prompts and answers are escaped, their
        control characters made visible, and those of harmful requests shown only on a click.
    """
    view = View(summary)
    samples, unshown = shown_samples(view)
    css, script = palette_css() + _resource("style.css"), _resource("script.js")
    return environment().get_template("page.html.j2").render(
        summary=summary,
        view=view,
        css=Markup(css),
        script=Markup(script),
        css_hash=_hash(css),
        script_hash=_hash(script),
        verdict=verdict(view),
        tiles=tiles(view),
        figures=figures_of(summary),
        safer=safer_findings(view),
        believe=believe_findings(view),
        changed=changed_findings(view),
        where=where_findings(view),
        gaps=gap_table(view, [c.name for c in summary.conditions if c.kind in _GAP_KINDS]),
        claims=claims_table(view),
        audit=[*factor_tables(view), *audit_tables(view)],
        beside=[*headline_tables(view), *utility_tables(view), *data_tables(view)],
        judging=[*judging_tables(view), *gate_tables(view)],
        labels=labels_table(view),
        sets=sets_table(view),
        writes=writes_table(view),
        own=own_table(view),
        attacks=attack_table(view),
        facts=[
            pairs_table("Model", model_facts(view)),
            pairs_table("Data and method", data_facts(view)),
            pairs_table("Run, seeds and versions", run_facts(view)),
        ],
        costs=costs_table(view),
        config=config_text(view),
        samples=samples,
        unshown=unshown,
        comparison=None if compare is None else comparison(view, View(compare)),
    )  # fmt: skip


_GAP_KINDS: tuple[ConditionKind, ...] = ("base", "aligned", "random_rows")


def write_report(summary: Summary, folder: Path, compare: Summary | None = None) -> dict[str, Path]:
    """Write `report.html`, `report.md` and `figures/*.svg` under `folder`.

    Returns:
        Path of each file by its name: `report.html`, `report.md`, `figures/forest.svg`, …

    Raises:
        StoreError: the folder cannot be written.
    """
    texts = {
        "report.html": render_html(summary, compare),
        "report.md": render_markdown(summary),
    }
    for figure in figures_of(summary).all:
        texts[f"figures/{figure.name}.svg"] = standalone(figure)
    with readable_errors(folder):
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        return {name: write_whole(folder / name, text) for name, text in texts.items()}


def _hash(text: str) -> str:
    """The source expression by which a content security policy knows an inline block."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _resource(name: str) -> str:
    return (files("precise_shield.report") / "templates" / name).read_text(encoding="utf-8")
