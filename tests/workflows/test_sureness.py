"""A run says how sure its sets are, from the statistics that it stored."""

import json
from itertools import permutations

import pytest

from precise_shield.workflows.base.config import parse_config
from precise_shield.workflows.base.context import started
from precise_shield.workflows.explain.stage import comparable
from precise_shield.workflows.identify.stage import identify


def test_every_set_of_a_run_has_its_confidence(finished):
    _, summary = finished
    found = summary.neurons.confidence
    assert [row.name for row in found.sets] == [facts.name for facts in summary.neurons.sets]
    assert 0 < found.used <= found.draws
    assert 0 < found.used_halves <= 10
    assert 0 < found.used_shuffled <= 20
    for row, facts in zip(found.sets, summary.neurons.sets, strict=True):
        assert row.size == facts.size
        assert row.halves.mean == facts.split_half
        assert row.shuffled_size.mean == facts.shuffled_size
        assert (row.p_holm is not None) == row.cell
        assert row.p_holm is None or row.p_holm >= row.p_value
    assert {row.name for row in found.sets if row.cell} >= {"en/text", "fr/image_dominant"}
    assert len({frozenset((row.a, row.b)) for row in found.scores}) == len(found.scores) > 0


def test_inclusion_is_kept_for_every_neuron_of_every_set(finished):
    run, summary = finished
    stored = json.loads(next(run.folder.glob("stages/explain/*/inclusion.json")).read_text())
    for name, neurons in identify(run).sets.items():
        shares = stored["sets"][name]
        assert {site: len(rows) for site, rows in shares.items()} == {
            str(site): count for site, count in neurons.counts().items()
        }
        assert all(0 <= share <= 1 for rows in shares.values() for share in rows)
    mean = next(row for row in summary.neurons.confidence.sets if row.name == "all").inclusion
    every = [share for rows in stored["sets"]["all"].values() for share in rows]
    assert abs(mean - sum(every) / len(every)) < 1e-3


def test_the_curve_says_how_much_of_the_primary_set_each_p_keeps(finished):
    _, summary = finished
    kept = {point.p: point.kept for point in summary.neurons.curve}
    assert kept[summary.neurons.p] == 1
    assert all(0 <= share <= 1 for share in kept.values())


def test_sharing_at_the_last_prompt_is_that_of_sets_selected_there(finished, config_text, copied):
    """By way of a run that selects there, from the same statistics."""
    run, summary = finished
    config = parse_config(config_text, ["identify.position=last_prompt"])
    other = started(config, copied, quiet=True)
    other.__dict__["loaded"] = run.loaded
    atlas = identify(other)
    for families, row in zip(comparable(atlas), summary.neurons.sharing, strict=True):
        pairs = [pair for names in families for pair in permutations(names, 2)]
        shares = [atlas.sets[a].share_of(atlas.sets[b]) for a, b in pairs if atlas.sets[a]]
        assert row.share_at_last_prompt == pytest.approx(sum(shares) / len(shares), abs=1e-6)
        assert row.share_at_last_prompt != row.share
    claim = next(c for c in summary.claims if c.claim.startswith("Languages share"))
    share = summary.neurons.sharing[0].share_at_last_prompt
    assert f"selected at last_prompt {share:.1%}" in claim.measured
    assert "before any shared wording" in (run.folder / "report.html").read_text()


def test_the_report_shows_it(finished):
    run, _ = finished
    page = (run.folder / "report.html").read_text()
    assert "How sure is the set" in page
    assert "Agreement between scores" in (run.folder / "report.md").read_text()
