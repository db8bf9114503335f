"""Planted neurons: scores find them beyond chance, and the verdict tells their kinds apart."""

from math import comb

import pytest
import torch

import planted
from precise_shield.core.controls import matched_random
from precise_shield.core.records import Cell
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.evaluate.counting.roles import verdicts
from precise_shield.identify.scores import SCORES
from precise_shield.identify.select import Selection, contrast
from precise_shield.identify.stats import Stats
from precise_shield.identify.streaming import stream
from precise_shield.intervene.edits import intervening, suppress
from precise_shield.models.architecture.bind import bind
from precise_shield.models.readings.likelihood import first_token_ids
from precise_shield.models.readings.readout import FirstTokenReadout
from precise_shield.workflows.base.config import parse_config
from precise_shield.workflows.base.context import started
from precise_shield.workflows.identify.collecting import Plan
from precise_shield.workflows.verify.roles import Item, components, first_token, given_text, judging

RANDOM = 79  # four sets: Holm's smallest p is 4 / 80
P = 6 / planted.FFN
WIDTHS = {Site("text", layer): planted.FFN for layer in range(planted.LAYERS)}
HELD_OUT = planted.REFUSALS[-2:]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return planted.saved(tmp_path_factory.mktemp("planted"), steps=450)


def asked(prompt, number=0, harmful=False):
    return planted.example(prompt, harmful, None, "test", number)


def readables(loaded):
    things = range(planted.THINGS)
    harmful = [asked(f"do bad{n}", n, True) for n in things]
    taught = first_token_ids(loaded, planted.REFUSALS[:-2])
    new = first_token_ids(loaded, HELD_OUT)
    readout = FirstTokenReadout(loaded, harmful, {"en": new}, 64, {"en": taught})
    safe = [
        Item(asked(f"safe? {kind}{n}", n), right, wrong)
        for n in things
        for kind, right, wrong in (("bad", "no", "yes"), ("good", "yes", "no"))
    ]
    told = [Item(row, HELD_OUT[n % 2]) for n, row in enumerate(harmful)]
    copied = [Item(asked(f"repeat {text}"), text) for text in HELD_OUT]
    sorry = [Item(asked(f"fetch moon{n}"), planted.SORRY[-1 - n % 2]) for n in range(4)]
    return [
        first_token(readout, "toy"),
        judging(loaded, safe, 64),
        given_text(loaded, "continuation", told, 64, skip=1),
        given_text(loaded, "copying", copied, 64),
        given_text(loaded, "apology", sorry, 64),
    ]


@pytest.fixture(scope="module")
def found(loaded):
    """The verdicts on the planted sets, their union, and neurons that were not planted."""
    bound, readings = bind(loaded.model), readables(loaded)
    both = planted.DECIDING | planted.WRITING
    others = NeuronSet.of({Site("text", 0): range(20, 26), Site("text", 2): range(20, 26)})
    rows = []
    for name, one in (("D", planted.DECIDING), ("W", planted.WRITING), ("DW", both), ("O", others)):
        drawn = [
            matched_random(one, WIDTHS, seed=seed, exclude=both | one) for seed in range(RANDOM)
        ]
        off = lambda chosen, scope: lambda: intervening(bound, chosen, suppress, scope)  # noqa: E731
        rows.append((name, len(one), components(readings, one, drawn, off)))
    return {role.of: role for role in verdicts(rows)}


def test_the_planted_model_does_all_that_is_read_out(found):
    for role in found.values():
        assert all(component.able for component in role.components)
    accuracy = next(c for c in found["D"].components if c.name == "judging").share[0]
    assert accuracy == 1


def test_the_verdict_tells_deciding_from_writing(found):
    said = {name: role.verdict for name, role in found.items()}
    reasons = {name: role.reason for name, role in found.items()}
    assert said == {"D": "deciding", "W": "writing", "DW": "both", "O": "neither"}, reasons


def test_deciding_neurons_move_the_decision_and_nothing_that_is_written(found):
    seen = {(c.name, c.scope): c for c in found["D"].components}
    assert seen["refusal", "prompt"].suppressed < seen["refusal", "prompt"].base - 3
    assert seen["judging", "prompt"].share[1] <= 0.6
    for place in (("copying", "prompt"), ("apology", "prompt"), ("copying", "response")):
        assert seen[place].suppressed == pytest.approx(seen[place].base, abs=1e-3)


def test_writing_neurons_move_what_is_written_and_not_the_judgement(found):
    seen = {(c.name, c.scope): c for c in found["W"].components}
    for name in ("continuation", "copying", "apology"):
        assert seen[name, "response"].suppressed < seen[name, "response"].base - 1
    assert seen["judging", "prompt"].share == (1, 1)
    assert seen["refusal", "prompt"].suppressed < seen["refusal", "prompt"].base  # its first word
    assert seen["refusal", "context"].suppressed == pytest.approx(seen["refusal", "context"].base)


@pytest.fixture(scope="module")
def collected(loaded, tmp_path_factory):
    """Statistics of each quantity at the prompt and at the response."""
    folder = tmp_path_factory.mktemp("run")
    text = f"""
model: {{path: {loaded.folder}, device: cpu, dtype: float32}}
data: {{sources: [{{source: sandbox}}]}}
identify: {{position: response_mean, positions: [prompt_mean, response_mean]}}
"""
    run = started(parse_config(text), folder, quiet=True)
    run.__dict__["loaded"] = loaded
    plan = Plan(run, planted.probing())
    cells = sorted({row.cell for row in planted.probing()})
    known: dict[str, Stats] = {}

    def stats(quantity):
        if quantity.name not in known:
            known[quantity.name] = stream(
                run.bound,
                cells,
                plan.parts,
                plan.make(),
                batch_size=1 if quantity.name.startswith("deactivation") else 24,
                quantity=quantity,
            )
        return known[quantity.name]

    return stats


def chance(hits, drawn):
    """Probability of at least so many planted ones among as many drawn at random."""
    total = sum(
        comb(6, k) * comb(planted.FFN - 6, drawn - k) for k in range(hits, min(6, drawn) + 1)
    )
    return total / comb(planted.FFN, drawn)


REDUNDANT = "three deciding neurons write each dimension: without one of them little changes"
WEAK = {
    ("effect_size", "response_mean"): "it ignores what a neuron writes, and in the last layer"
    " every neuron tells a refusal from an answer",
    ("wanda", "prompt_mean"): "it weighs norms of inputs, which are equal in both arms there",
    **{
        (score, "prompt_mean"): REDUNDANT
        for score in ("deactivation", "deactivation_logits", "pathways", "snip")
    },
}
"""What a score cannot see in this world, by how it is made."""


@pytest.mark.parametrize("position", ["prompt_mean", "response_mean"])
@pytest.mark.parametrize("score", sorted(SCORES))
def test_every_score_finds_the_planted_neurons_beyond_chance(score, position, collected):
    """Deciding ones where the prompt is read, writing ones where the response is made."""
    truth = planted.DECIDING if position == "prompt_mean" else planted.WRITING
    stats = collected(SCORES[score].quantity)
    sets = contrast(stats, ("en", "text"), Selection(score, position, P)).draw(0)
    (site,) = truth.units
    here = NeuronSet.of({site: sets.units.get(site, ())})
    hits = len(here & truth)
    if (score, position) in WEAK and hits < 4:
        pytest.xfail(f"recall {hits} of 6, drawn {len(here)}: {WEAK[score, position]}")
    assert hits / 6 >= 0.5, "recall"
    assert hits / len(here) > 2 * 6 / planted.FFN, "precision against chance"
    assert chance(hits, len(here)) < 0.01


def test_cells_of_the_planted_world_are_what_the_scores_read():
    assert {row.cell for row in planted.probing()} == {
        Cell("en", "text", "harmful"), Cell("en", "text", "benign"),
    }  # fmt: skip


def test_a_model_that_never_learnt_to_refuse_gives_nothing_to_find(loaded, tmp_path):
    """The negative control: the same shape at random weights; nothing there can be lost."""
    torch.manual_seed(3)
    blank = planted.saved(tmp_path, steps=1)
    for name, weight in blank.model.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(weight, std=0.05)
    bound, readings = bind(blank.model), readables(blank)
    drawn = [matched_random(planted.WRITING, WIDTHS, seed=seed) for seed in range(19)]
    off = lambda chosen, scope: lambda: intervening(bound, chosen, suppress, scope)  # noqa: E731
    rows = components(readings, planted.WRITING, drawn, off)
    assert not any(row.able for row in rows if row.name != "refusal")
    (role,) = verdicts([("W", 6, rows)])
    assert role.verdict == "not testable"
