"""A request without a picture is read alike beside one that has a picture, or kept apart."""

from __future__ import annotations

import pytest
import torch

import tiny_folders
from precise_shield.core.errors import DataError
from precise_shield.models.inputs.encoding import encode, mixes


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
def test_words_alone_do_not_see_a_neighbours_picture(family, tmp_path):
    loaded = tiny_folders.tiny_loaded(family, tmp_path / family)
    assert mixes(loaded)
    image = tiny_folders.draw(tmp_path / "a.png")
    seeing = tiny_folders.example(0, "The cat", image)
    words = tiny_folders.example(1, "The cat sat on the mat")

    def logits(rows):
        batch = encode(loaded, rows, ["I cannot"] * len(rows))
        with torch.no_grad():
            out = loaded.model(**batch.inputs).logits
        return [row[mask] for row, mask in zip(out, batch.predict_mask, strict=True)]

    for rows in ([seeing, words], [words, seeing]):
        for mixed, row in zip(logits(rows), rows, strict=True):
            torch.testing.assert_close(mixed, logits([row])[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(*logits([seeing, tiny_folders.example(2, "The cat")]), atol=1e-2)


def test_where_neighbours_would_see_it_they_are_kept_apart(tmp_path):
    loaded = tiny_folders.tiny_loaded("mllama", tmp_path / "mllama")
    image = tiny_folders.draw(tmp_path / "a.png")
    rows = [tiny_folders.example(0, "The cat", image), tiny_folders.example(1, "The cat")]
    assert not mixes(loaded)
    with pytest.raises(DataError, match="batches apart"):
        encode(loaded, rows, ["I cannot"] * 2)
    for row in rows:
        assert len(encode(loaded, [row], ["I cannot"])) == 1
