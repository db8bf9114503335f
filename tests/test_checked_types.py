"""A call with a wrong type or a wrong shape fails in every test that makes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from checked_types import decorator, has_shape
from precise_shield.core.controls import Features
from precise_shield.core.moments import Moments
from precise_shield.core.ranking import spearman
from precise_shield.core.rates import Rate, or_null


def test_a_wrong_shape_is_an_error():
    assert spearman(torch.rand(3, 5)).shape == (3, 3)
    with pytest.raises(TypeCheckError, match="rows"):
        spearman(torch.rand(3))


def test_shapes_of_one_call_must_agree():
    moments = Moments(width=4)
    moments.update(torch.rand(3, 4), torch.zeros(3, dtype=torch.long))
    with pytest.raises(TypeCheckError, match="folds"):
        moments.update(torch.rand(3, 4), torch.zeros(2, dtype=torch.long))


def test_a_wrong_type_is_an_error_where_a_signature_has_no_shape():
    assert or_null(0.5) == 0.5
    with pytest.raises(BeartypeCallHintViolation):
        or_null("half")
    with pytest.raises(BeartypeCallHintViolation):
        Rate(hits="three", judged=4)


def test_what_is_returned_is_checked_too():
    def says(value: int) -> str:
        return value

    def alike(rows: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        return rows[1:]

    check = decorator(typechecker=beartype)
    with pytest.raises(BeartypeCallHintViolation):
        check(says)(3)
    with pytest.raises(TypeCheckError):
        check(alike)(torch.rand(3))


@pytest.mark.parametrize(
    ("hint", "has"),
    [
        (Float[Tensor, " n"], True),
        (Float[Tensor, " n"] | None, True),
        (Mapping[str, tuple[Float[Tensor, " n"], int]], True),
        (Callable[[Float[Tensor, " n"]], None], True),
        (Features, True),
        (Mapping[str, Tensor], False),
        (Callable[..., None], False),
        (None, False),
    ],
)
def test_a_shape_is_found_wherever_it_stands(hint, has):
    assert has_shape(hint) is has
