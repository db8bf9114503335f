"""The comparison of exact and local deactivation is drawn where it was measured."""

from precise_shield.core.summary import LocalAgreement
from precise_shield.report.neurons.local import local_figure, local_tables
from precise_shield.report.numbers.view import View
from report.fixture import realistic


def test_it_shows_every_cell_and_layer_and_nothing_where_nothing_was_measured():
    plain = realistic()
    assert local_figure(View(plain)) is None
    assert local_tables(View(plain)) == []
    row = LocalAgreement(
        exact="deactivation", language="en", modality="text", harm="harmful", examples=7,
        rank=0.4321, by_layer={"text.0.ffn": 0.125, "text.1.ffn": None}, overall=-0.25,
        top_shared=0.5,
    )  # fmt: skip
    neurons = plain.neurons.model_copy(update={"local": [row]})
    view = View(plain.model_copy(update={"neurons": neurons}))
    figure = local_figure(view)
    assert figure is not None
    drawn = str(figure.panels[0].svg)
    assert "text.1.ffn" in drawn
    assert "0.12" in drawn or "0.13" in drawn
    assert "0.43" in str(local_tables(view)[0])
