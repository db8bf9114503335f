"""All stages, from a configuration to a page."""

from __future__ import annotations

from pathlib import Path

from precise_shield.core.parallel import crew
from precise_shield.core.store import readable_errors
from precise_shield.core.summary import Summary
from precise_shield.report.drawing.raster import write_pngs
from precise_shield.report.pages.page import write_report
from precise_shield.workflows.align.adopting import adopt
from precise_shield.workflows.align.gate import gates
from precise_shield.workflows.align.parts import parts_of
from precise_shield.workflows.align.plans import arm_names
from precise_shield.workflows.align.search import search_facts
from precise_shield.workflows.align.stage import align
from precise_shield.workflows.align.stopping import check_stop
from precise_shield.workflows.align.tracking import check_trackers
from precise_shield.workflows.answer.judges import names_of
from precise_shield.workflows.base.config import commented
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.base.summary_file import read_summary
from precise_shield.workflows.evaluate.defended import check_defences
from precise_shield.workflows.evaluate.served import check_servers
from precise_shield.workflows.evaluate.stage import evaluate
from precise_shield.workflows.explain.explained import explained
from precise_shield.workflows.explain.headroom import headroom
from precise_shield.workflows.explain.stage import explain
from precise_shield.workflows.identify.stage import identify
from precise_shield.workflows.plan.budget import budget
from precise_shield.workflows.plan.rows import (
    check_chosen,
    check_lengths,
    check_rows,
    warn_of_control_tokens,
)
from precise_shield.workflows.summarise import summarise
from precise_shield.workflows.verify.stage import verify


def run_all(run: Run) -> Summary:
    """Identify, explain, verify, align, evaluate, report; finished stages are taken as they are."""
    names_of(run.config)
    check_defences(run.config)
    check_servers(run.config, arm_names(run.config.align, parts_of(run)))
    check_trackers(run.config.align.track)
    check_rows(run)
    check_chosen(run)
    check_stop(run)
    run.write_text("config.yaml", commented(run.config))
    run.reporter.say(budget(run))
    check_lengths(run)
    warn_of_control_tokens(run)
    if run.config.align.search.on:
        headroom(run)  # warns before anyone trains
    adopt(run)
    atlas = identify(run)
    facts = explain(run)
    headroom(run)  # warns before anyone trains
    verified = verify(run)
    arms = align(run)
    found = evaluate(run)
    held = gates(run, arms)
    more = explained(run, atlas, arms, found)
    searched = search_facts(run)
    summary = summarise(run, atlas, facts, verified, arms, found, more, held, searched)
    run.write_text("summary.json", summary.model_dump_json(indent=1) + "\n")
    if crew().leads:
        write_pages(run.folder)
    return summary


def plan(run: Run) -> list[str]:
    """What `run` would do, without a model."""
    splits = {split: 0 for split in ("probe", "train", "validation", "test")}
    for example in run.data.examples:
        splits[example.split] += 1
    section = run.config
    check_rows(run)
    check_chosen(run)
    check_stop(run)
    names = arm_names(section.align, parts_of(run))
    return [
        f"model     {section.model.path}",
        "data      " + ", ".join(f"{split} {count}" for split, count in splits.items()),
        f"identify  {section.identify.score} at {section.identify.position},"
        f" p {section.identify.p}, set {section.identify.chosen}",
        f"verify    {section.verify.random_sets} random sets on split {section.verify.split}",
        f"align     {', '.join(names)}",
        f"evaluate  judge {', '.join(names_of(section))}, rule {section.evaluate.rule}",
        budget(run),
        f"folder    {run.folder}",
    ]


def write_pages(folder: Path, beside: Path | None = None, *, png: bool = False) -> list[Path]:
    """Write `report.html`, `report.md` and the figures from a folder's `summary.json`.

    With `beside`, another run's folder, the page sets the two runs side by side. With `png`, every
    figure is drawn as a PNG too.

    Raises:
        StoreError: there is no summary, or it is of another schema.
        ConfigError: `png` without resvg_py, or without a font.
    """
    other = None if beside is None else read_summary(beside)
    summary = read_summary(folder)
    with readable_errors(folder):
        written = list(write_report(summary, folder, other).values())
    return written + (write_pngs(folder) if png else [])
