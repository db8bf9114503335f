"""`identify` leaves an atlas behind that can be read, compared and chosen from, model or none."""

import json

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from precise_shield import api
from precise_shield.cli import app
from precise_shield.workflows.base.config import commented
from precise_shield.workflows.base.context import started
from precise_shield.workflows.identify.collecting import collect_stats
from precise_shield.workflows.identify.stage import identified, identify, selection


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    return started(small, tmp_path_factory.mktemp("run"), quiet=True)


def test_a_run_leaves_an_atlas_with_its_sets_and_scores(run):
    atlas = api.load_atlas(identified(run).folder)
    found = identify(run)
    assert atlas.sets == found.sets
    assert (atlas.chosen, atlas.widths, atlas.places) == (
        found.chosen,
        found.widths,
        found.places,
    )
    assert atlas.about["model"] == run.loaded.fingerprint
    assert atlas.about["p"] == selection(run).p
    # every chosen neuron of a cell scores higher for harmful than the median unit does
    for site, ids in atlas.sets["en/text"].units.items():
        values = atlas.scores["en/text"][site]
        assert (values[list(ids)] > values.median()).all()
    raw = load_file(identified(run).path("atlas.safetensors"))
    site, ids = next(iter(atlas.sets["en/text"].units.items()))
    assert torch.equal(raw[f"units|en/text|{site}"], torch.tensor(ids, dtype=torch.int32))


def test_the_command_line_chooses_again_and_compares(run, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(commented(run.config))
    stats, here = str(collect_stats(run).paths[0]), str(identified(run).folder)
    given = ["identify", str(config), "--from-stats", stats, "--set", "identify.p=0.3"]
    given += ["--out", str(tmp_path / "out"), "--json", "--quiet"]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert not list((tmp_path / "out").glob("stages/collect"))
    shown = CliRunner().invoke(app, ["atlas", found["atlas"], "--json"])
    assert json.loads(shown.stdout)["sizes"] == found["sizes"]
    both = CliRunner().invoke(app, ["atlas", here, found["atlas"], "--json"])
    rows = {row["name"]: row for row in json.loads(both.stdout)}
    assert rows["en/text"]["rank"] == 1.0  # the same scores
    assert rows["en/text"]["b"] == found["sizes"]["en/text"] > rows["en/text"]["a"]
