"""Which rows of a vision tower belong to which picture, and which of its layers are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from precise_shield.core.errors import LayoutMismatchError, UnsupportedModelError
from precise_shield.core.sites import Site
from precise_shield.models.architecture.bind import BoundModel
from precise_shield.models.architecture.layouts import PictureRows, layouts_for


def picture_rows(model_type: str) -> PictureRows:
    """How a family's vision tower lays out a batch of pictures.

    Raises:
        UnsupportedModelError: its rows cannot be told apart by picture.
    """
    layout = layouts_for(model_type).get("vision")
    if layout is None or layout.pictures is None:
        raise UnsupportedModelError(
            f"the vision tower of {model_type!r} cannot be searched: it has none, or it pads"
            " pictures in a way that mixes padding into their rows. Set identify.towers: [text]."
        )
    return layout.pictures


def rows_a_picture(model_type: str, inputs: Mapping[str, Tensor], pictures: int) -> list[int]:
    """How many rows of the tower each picture of a batch takes, in order.

    -1 stands for all rows there are: several tiles of the one picture of the batch.

    Raises:
        UnsupportedModelError: several pictures at once, in a family whose tiles are not told
            apart; or see `picture_rows`.
    """
    how = picture_rows(model_type)
    if how == "each":
        return [1] * pictures
    if how == "packed":
        grid = inputs["image_grid_thw"]
        return [int(one.prod()) for one in grid]
    if pictures != 1:
        raise UnsupportedModelError(
            f"{model_type!r} cuts a picture into tiles and does not say whose they are, so its"
            f" vision tower is read one picture at a time, not {pictures}."
        )
    return [-1]


def picture_means(acts: Tensor, rows: Sequence[int]) -> Float[Tensor, "pictures width"]:
    """Mean over all patches of each picture, a class token included, in float32.

    Raises:
        LayoutMismatchError: there are more or fewer rows than the pictures take.
    """
    flat = acts.float() if acts.dim() == 2 else acts.float().flatten(1, -2).mean(1)
    if list(rows) == [-1]:
        return flat.mean(0, keepdim=True)
    if sum(rows) != len(flat):
        raise LayoutMismatchError(
            f"the vision tower has {len(flat)} rows where its pictures take {sum(rows)}; they"
            " cannot be told apart. Set identify.towers: [text]."
        )
    return torch.stack([part.mean(0) for part in torch.split(flat, list(rows))])


def reaching(bound: BoundModel) -> list[Site]:
    """The sites that can matter: LLaVA's language model reads an inner layer of the vision tower.

    The layers above it fire all the same, and nothing of theirs reaches an answer.
    """
    read = bound.model.config.to_dict().get("vision_feature_layer")
    layers = [site.layer for site in bound.sites if site.tower == "vision"]
    if read is None or not layers:
        return list(bound.sites)
    count = _depth(bound)
    chosen = [read] if isinstance(read, int) else list(read)
    top = max(one if one >= 0 else count + 1 + one for one in chosen)
    return [site for site in bound.sites if site.tower != "vision" or site.layer < top]


def _depth(bound: BoundModel) -> int:
    layout = layouts_for(bound.model.config.model_type)["vision"]
    return len(list(bound.model.get_submodule(layout.layers).children()))
