"""Names are unique, and a slip of the pen gets a hint."""

from __future__ import annotations

import pytest

from precise_shield.core.errors import ConfigError, UserError
from precise_shield.core.registry import Registry, suggestion


@pytest.fixture
def colours():
    table: Registry[int] = Registry("colour")
    table.register("red")(1)
    table.register("blue")(2)
    return table


def test_a_second_row_of_the_same_name_is_refused_and_the_first_kept(colours):
    with pytest.raises(ValueError, match="colour 'red' is already registered"):
        colours.register("red")(3)
    assert colours["red"] == 1


def test_an_unknown_name_names_the_nearest_and_all(colours):
    with pytest.raises(ConfigError) as error:
        colours["redd"]
    assert "Did you mean 'red'?" in str(error.value)
    assert "Known: blue, red." in str(error.value)
    assert isinstance(error.value, UserError)


def test_it_is_a_sorted_mapping(colours):
    assert list(colours) == ["blue", "red"]
    assert dict(colours) == {"red": 1, "blue": 2}
    assert "red" in colours
    assert "green" not in colours
    assert len(colours) == 2


def test_registering_gives_the_row_back_so_it_decorates():
    table: Registry[object] = Registry("function")

    @table.register("double")
    def double(x: int) -> int:
        return 2 * x

    assert double(2) == 4
    assert table["double"] is double


def test_nothing_near_suggests_nothing():
    assert suggestion("xyz", ["red"]) == ""
