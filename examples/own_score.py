"""Add an importance score, and see which neurons it finds beside those that a run has.

python examples/own_score.py RUN

A score is a pure function of the streamed statistics, so the pass over the data is not repeated.
"""

import sys
from pathlib import Path

from torch import Tensor

from precise_shield import api
from precise_shield.core.moments import Pooled
from precise_shield.identify.scores import SCORES, Score


def driven_up(harmful: Pooled, benign: Pooled, norms: Tensor) -> Tensor:
    """How much more active a neuron is for harmful inputs, times what it writes; never below 0."""
    more: Tensor = (harmful.magnitude - benign.magnitude).clamp(min=0) * norms
    return more


# "contrast": the function compares the two kinds itself, and the set is its top p.
SCORES.register("driven_up")(Score(driven_up, "contrast", "examples/own_score.py"))


def main(folder: str) -> None:
    """Choose again with the new score, in the same run folder, and compare set by set."""
    config = Path(folder) / "config.yaml"
    before = api.identify(api.open_run(config, out=folder, quiet=True))
    own = api.open_run(config, out=folder, changes=["identify.score=driven_up"], quiet=True)
    after = api.identify(own)
    for language, modality in before.places:
        name = f"{language}/{modality}"
        one, two = before.sets[name], after.sets[name]
        print(f"{name}: {len(one)} and {len(two)} neurons, Jaccard {one.jaccard(two):.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
