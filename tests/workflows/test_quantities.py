"""Scores that read more than activations get their passes, and only they."""

import pytest
import torch

from conftest import CONFIG
from precise_shield.core.errors import ConfigError
from precise_shield.core.ranking import spearman
from precise_shield.core.records import Cell, Example
from precise_shield.core.sites import Site
from precise_shield.data.contrast import fold_of
from precise_shield.identify.scores import SCORES
from precise_shield.workflows.base.config import parse_config
from precise_shield.workflows.base.context import started
from precise_shield.workflows.explain.stage import explain
from precise_shield.workflows.identify.collecting import collect_stats
from precise_shield.workflows.identify.quantities import needed, spread
from precise_shield.workflows.identify.stage import identify


def opened(model_folder, folder, *changes):
    quick = ["identify.bootstrap=0", "identify.draws=20", "data.languages=[en]"]
    config = parse_config(CONFIG.format(model=model_folder), [*quick, *changes])
    return started(config, folder, quiet=True)


@pytest.fixture(scope="module")
def ran(model_folder, tmp_path_factory):
    run = opened(
        model_folder,
        tmp_path_factory.mktemp("quantities"),
        "identify.score=pathways",
        "identify.also=[deactivation, wanda, snip]",
        "identify.deactivation_examples=2",
    )
    return run, explain(run)


def test_activations_alone_are_collected_where_the_score_needs_no_more(model_folder, tmp_path):
    run = opened(model_folder, tmp_path)
    assert needed(run.config.identify) == []
    identify(run)
    assert len(collect_stats(run).paths) == 1
    assert len(list((tmp_path / "stages" / "collect").iterdir())) == 1


def test_every_quantity_is_in_the_statistics_at_the_selecting_position(ran):
    run, _ = ran
    collected = collect_stats(run)
    assert len(collected.paths) == 6
    extra = {
        (place.quantity, place.position)
        for place in collected.stats().moments
        if place.quantity != "activation"
    }
    names = {"attribution", "deactivation", "magnitude", "wanda", "snip"}
    assert extra == {(name, "response_mean") for name in names}


def test_the_set_is_the_one_that_the_score_gives(ran):
    run, facts = ran
    atlas, stats = identify(run), collect_stats(run).stats()
    assert facts.score == "pathways"
    assert len(atlas.neurons) > 0
    site = Site("text", 1)
    arms = {
        harm: stats.at(site, Cell("en", "text", harm), "response_mean", "attribution").pooled()
        for harm in ("harmful", "benign")
    }
    k = int(0.1 * len(stats.norms[site]))
    tops = {harm: set(arm.mean.topk(k).indices.tolist()) for harm, arm in arms.items()}
    assert set(atlas.sets["en/text"].units.get(site, ())) == tops["harmful"] - tops["benign"]


def test_exact_and_local_deactivation_are_compared_in_every_cell(ran):
    run, facts = ran
    stats = collect_stats(run).stats()
    assert {row.exact for row in facts.local} == {"deactivation"}
    assert len(facts.local) == len(stats.cells)
    row = next(row for row in facts.local if (row.modality, row.harm) == ("text", "harmful"))
    cell = Cell("en", "text", "harmful")
    assert row.examples == 2 == int(stats.at(min(stats.norms), cell, "response_mean",
                                             "deactivation").count.sum())  # fmt: skip
    site = Site("text", 2)
    values = []
    for name in ("deactivation", "deactivation_local"):
        score = SCORES[name]
        arm = stats.at(site, cell, "response_mean", score.quantity.name).pooled()
        values.append(score.compute(arm, arm, stats.norms[site]))
    rank = float(spearman(torch.stack(values))[0, 1])
    assert row.by_layer[str(site)] == pytest.approx(rank)
    assert rank > 0.5  # in the last layer the two differ by the final norm alone
    assert row.rank == pytest.approx(sum(row.by_layer.values()) / len(row.by_layer))


def test_an_unknown_score_beside_the_chosen_one_is_refused(model_folder, tmp_path):
    run = opened(model_folder, tmp_path, "identify.also=[deactivatoin]")
    with pytest.raises(ConfigError, match=r"no score 'deactivatoin'. Did you mean"):
        needed(run.config.identify)


def test_a_few_examples_a_cell_are_the_same_groups_over_many_folds():
    rows = [
        Example(f"{harm}-{i}", "en", "text", harm, "words", "probe", f"group-{i}")
        for harm in ("harmful", "benign")
        for i in range(200)
    ]
    kept = spread(rows, 16)
    groups = {harm: [r.group for r in kept if r.harm == harm] for harm in ("harmful", "benign")}
    assert sorted(groups["harmful"]) == sorted(groups["benign"])
    assert len(groups["benign"]) == 16
    assert len({fold_of(group) for group in groups["benign"]}) == 16
    assert spread(rows, None) == rows
