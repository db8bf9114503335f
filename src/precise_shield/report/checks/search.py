"""What a validation search tried, which trials nobody could better, and arms at like cost."""

from __future__ import annotations

from math import isfinite, nan

from markupsafe import Markup

from precise_shield.core.summary import SearchFacts
from precise_shield.core.summary.gate import MatchedPair, TrialFacts
from precise_shield.report.drawing.charts import BOX, framed, glyph
from precise_shield.report.drawing.figure import Figure, Panel
from precise_shield.report.drawing.svg import linear, tag
from precise_shield.report.numbers.tables import Rows, Table, real, table
from precise_shield.report.numbers.view import View

LONGEST = 40
"""More trials than this, and the table shows those on a front alone."""

_KINDS = {"aligned": "aligned", "random_rows": "random"}


def search_figure(view: View) -> Figure | None:
    """Safety against both costs, a mark a trial; nothing where nothing was searched."""
    search = view.summary.search
    if search is None or not search.trials:
        return None
    costs = {
        "refusals of benign requests, %": [t.standing.over_refusal for t in search.trials],
        "drift of benign answers, nats a token": [t.standing.benign_kl for t in search.trials],
    }
    panels = [
        Panel(f"{_safety(search)} against {name}", _cloud(view, search, name, values))
        for name, values in costs.items()
    ]
    kinds = {_kind(view, trial.arm) for trial in search.trials}
    words = {"aligned": "safety neurons", "random": "random neurons", "defence": "other arms"}
    legend = tuple((kind, said) for kind, said in words.items() if kind in kinds)
    return Figure(
        "search",
        "What the search found: safety against its price",
        "A mark a trial on validation prompts that the gate did not see. Strong: on its arm's"
        " Pareto front, which nothing safer at no higher cost beats; ringed: picked. Where p was"
        " searched, the neurons of this page are those of the p picked for them.",
        tuple(panels),
        _trials(view, search),
        legend,
    )


def search_tables(view: View) -> list[Table]:
    """Every trial that the figure marks; nothing where nothing was searched."""
    search = view.summary.search
    return [] if search is None else [_trials(view, search)]


def matched_tables(view: View) -> list[Table]:
    """The chosen neurons beside each other arm at like cost, where there was a search."""
    search = view.summary.search
    return [] if search is None else [_matched(view, search)]


def search_lines(view: View) -> list[tuple[str, str]]:
    """The search in a sentence for the terminal; empty where there was none."""
    search = view.summary.search
    if search is None:
        return []
    picked = [t for t in search.trials if t.picked and t.arm == "aligned"]
    said = [f"safety neurons at {_settings(t.settings)}" for t in picked]
    return [("Search", f"{_told(search)} Picked: {', '.join(said) or 'nothing'}.")]


def _told(search: SearchFacts) -> str:
    budget = search.budget
    counts = sorted(set(budget.values()))
    each = f"{counts[0]} trials" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} trials"
    said = f"{search.sampler}: {each} an arm, {len(budget)} arms"
    if search.groups is not None:
        said += f", on {search.prompts} prompts of {search.groups} {search.split} groups"
    said += f"; {len(search.failed)} settings could not be tried" if search.failed else ""
    if len(counts) > 1:
        said += ". Arms with fewer trials have fewer settings that concern them"
    return f"{said}."


def _safety(search: SearchFacts) -> str:
    return "refusal gap, points" if search.safety == "gap" else "attacks that fail, %"


def _kind(view: View, arm: str) -> str:
    found = next((c.kind for c in view.summary.conditions if c.name == arm), "")
    return _KINDS.get(found, "defence")


def _safe(search: SearchFacts, trial: TrialFacts) -> float:
    now = trial.standing
    if search.safety == "attack_success":
        return nan if now.attack_success is None else 100 * (1 - now.attack_success)
    return nan if now.gap is None else 100 * now.gap


def _cloud(view: View, search: SearchFacts, name: str, costs: list[float | None]) -> Markup:
    left, right, lower, upper = BOX
    scale = 100.0 if name.endswith("%") else 1.0
    across = [nan if cost is None else scale * cost for cost in costs]
    along = [_safe(search, trial) for trial in search.trials]
    x, y = linear(across, left, right), linear(along, lower, upper)
    parts: list[Markup] = []
    placed = [
        (trial, a, b)
        for trial, a, b in zip(search.trials, across, along, strict=True)
        if isfinite(a) and isfinite(b)
    ]
    for trial, a, b in sorted(placed, key=lambda one: (one[0].picked, one[0].front)):
        kind = _kind(view, trial.arm)
        tip = f"{view.label(trial.arm)}, {_settings(trial.settings)}: {b:.3g} ({_safety(search)})"
        mark = glyph(kind, x(a), y(b), f"{tip} at {a:.3g} ({name})", faint=not trial.front)
        if trial.picked:
            parts.append(tag("circle", cx=x(a), cy=y(b), r=8, class_=f"k-{kind} open"))
        parts.append(tag("g", mark, class_="tip"))
    label = f"{_safety(search)} against {name}"
    return framed(label, parts, x, y, name, _safety(search))


def _settings(settings: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in settings.items())


def _trials(view: View, search: SearchFacts) -> Table:
    def row(trial: TrialFacts) -> list[object]:
        now = trial.standing
        return [
            view.label(trial.arm),
            _settings(trial.settings),
            "" if trial.neurons is None else f"{trial.neurons:,}",
            real(now.gap),
            real(now.attack_success),
            real(now.over_refusal),
            real(now.benign_kl, 3),
            "yes" if trial.passed else "no",
            "picked" if trial.picked else "front" if trial.front else "",
        ]

    shown = search.trials
    if len(shown) > LONGEST:
        shown = [trial for trial in shown if trial.front or trial.picked]
    rows: Rows = [row(trial) for trial in shown]  # type: ignore[misc]
    hidden = len(search.trials) - len(shown)
    note = (
        f"{_told(search)} Shares are fractions, KL is in nats a token. Front: nothing else of its"
        " arm was safer at no higher cost. Picked: of the trials that keep every limit the safest;"
        " where none does, one that breaks fewest."
    )
    note += f" {hidden} trials off the front are in summary.json." if hidden else ""
    columns = ["arm", "settings", "neurons", "refusal gap", "attack success", "over-refusal"]
    columns += ["benign KL", "keeps all limits", ""]
    return table("Validation search, the same for every arm", columns, rows, note=note)


def _matched(view: View, search: SearchFacts) -> Table:
    def row(pair: MatchedPair) -> list[object]:
        return [
            view.label(pair.other),
            _settings(pair.settings),
            _settings(pair.other_settings),
            real(pair.gap_difference),
            real(pair.over_refusal_mismatch),
            real(pair.benign_kl_mismatch, 3),
            "yes" if pair.close else "no",
        ]

    rows: Rows = [row(pair) for pair in search.matched]  # type: ignore[misc]
    return table(
        "Safety neurons against each other arm at like cost",
        [
            "arm",
            "safety neurons at",
            "the arm at",
            "refusal gap, difference",
            "over-refusal mismatch",
            "KL mismatch",
            "alike",
        ],
        rows,
        note="The pair of trials whose over-refusal and drift are most alike; where it is not"
        " alike within the tolerance, the difference in gap is no comparison at equal cost.",
    )
