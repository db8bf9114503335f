"""The model card's grids say what the figures say, and count what they leave out."""

from __future__ import annotations

import pytest

from precise_shield.core.records import MODALITIES
from precise_shield.core.summary import Explained
from precise_shield.report.neurons.grids import (
    LANGUAGES,
    depth_tables,
    grid_tables,
    influence_tables,
    overlap_tables,
)
from precise_shield.report.neurons.overlap import cell_overlaps, chance_of
from precise_shield.report.numbers.view import View
from precise_shield.report.pages.markdown import plain, render_markdown
from precise_shield.report.safety.figures import short_percent
from report.explained_fixture import explained_summary, influence_facts
from report.fixture import realistic


def with_(summary, **neurons):
    return summary.model_copy(update={"neurons": summary.neurons.model_copy(update=neurons)})


def test_every_grid_is_in_the_card_and_nothing_unmeasured_is():
    summary = explained_summary()
    text = render_markdown(summary)
    grids = grid_tables(View(summary))
    assert len(grids) == 1 + 3 + 1  # depth, overlap by modality, influence
    assert all(plain(grid.caption) in text for grid in grids)
    bare = with_(realistic(), overlaps=[], sets=[]).model_copy(update={"explained": Explained()})
    assert grid_tables(View(bare)) == []


def test_overlaps_stand_beside_their_chance_level():
    view = View(explained_summary())
    overlaps = cell_overlaps(view)
    for modality, grid in zip(view.modalities, overlap_tables(view), strict=True):
        assert len(grid.rows) == len(grid.columns) - 1 == len(view.languages) == 10
        for code, row in zip(grid.columns[1:], grid.rows, strict=True):
            for other, entry in zip(grid.columns[1:], row[1:], strict=True):
                found = overlaps.get(((code, modality), (other, modality)))
                if found is None:
                    assert entry.text == "–"
                    continue
                parts = [short_percent(found.share), short_percent(chance_of(found))]
                assert entry.text == f"{parts[0]} ({parts[1]})"
    filled = [entry.text for row in grid.rows for entry in row[1:] if entry.text != "–"]
    assert len(filled) == 90


def test_more_languages_than_fit_are_counted():
    summary = explained_summary()
    one = next(o for o in summary.neurons.overlaps if o.a == "en/text" and o.b == "zh/text")
    codes = [f"x{i:02}" for i in range(LANGUAGES + 3)]
    pairs = [
        one.model_copy(update={"a": f"{a}/text", "b": f"{b}/text"})
        for a in codes for b in codes if a != b
    ]  # fmt: skip
    rates = [r.model_copy(update={"language": code})
             for r in summary.rates if r.language == "en" for code in codes]  # fmt: skip
    many = with_(summary, overlaps=pairs).model_copy(update={"rates": rates})
    (grid,) = overlap_tables(View(many))
    assert len(grid.rows) == len(grid.columns) - 1 == LANGUAGES
    assert grid.note.startswith("3 more languages are left out here.")


@pytest.mark.parametrize(("layers", "rows"), [(8, 8), (36, 12)])
def test_many_layers_are_put_together_in_bands_that_are_named(layers, rows):
    found = influence_facts(layers)
    view = View(explained_summary().model_copy(update={"explained": Explained(influence=found)}))
    (grid,) = influence_tables(view)
    assert len(grid.rows) == rows
    assert len(grid.columns) == rows + 1
    assert grid.rows[-1][1].text == "–"  # nothing above is moved by what lies below it
    if layers == rows:
        assert grid.rows[0][3].text == "30 (10)"  # 0.6 / 2 of the chosen, 0.2 / 2 of random ones
        assert not grid.note
    else:
        assert grid.columns[1:3] == ("0–2", "3–5")
        mean = sum(0.6 / (k - i) for i in range(3) for k in range(3, 6)) / 9
        assert grid.rows[0][2].text.startswith(f"{100 * mean:.0f} (")
        assert "36 layers are put together in 12 bands" in grid.note


def test_depth_is_the_groups_mean_a_layer_beside_shuffled_labels():
    summary = explained_summary()
    (grid,) = depth_tables(View(summary))
    places = list(MODALITIES)
    depth = sorted(
        summary.neurons.profile.depth,
        key=lambda row: (places.index(row.modality), row.group == "other"),
    )
    assert grid.columns[1:4] == ("text, HRL", "text, others", "text-dominant, HRL")
    assert set(grid.note.removeprefix("HRL: ").strip(".").split(" and ")) == {"English", "Chinese"}
    assert len(grid.columns) == 1 + len(depth)
    for place, row in enumerate(depth, start=1):
        assert grid.rows[2][place].text == f"{row.counts[2]:.1f} ({row.shuffled[2]:.1f})"
    (alone,) = depth_tables(View(realistic()))
    chosen = next(s for s in realistic().neurons.sets if s.name == realistic().neurons.chosen)
    assert [row[1].text for row in alone.rows] == [f"{n:.1f}" for n in chosen.by_layer]
