"""What can be said to a request of the toy kingdom, for designs that cross prompt and response.

Only here may a hazard stand beside its full answer: nothing in this world is real.
"""

from __future__ import annotations

from precise_shield.core.errors import DataError
from precise_shield.core.records import Example
from precise_shield.sandbox.lexicon import REFUSAL_USES, lexicon
from precise_shield.sandbox.manifest import SOURCE

WORDINGS = (*REFUSAL_USES["probe"], *REFUSAL_USES["train"])
"""Wordings that probing may see; those of the readouts are never among them."""


def of_this_world(example: Example) -> bool:
    """Whether a request is the toy kingdom's, so that its answers are known."""
    return example.source == SOURCE


def refusal_to(example: Example, wording: int) -> str:
    """A refusal of the request in its language, harmful or not, naming what is refused.

    Raises:
        DataError: the request is not of this world.
    """
    action, _, thing = example.group.partition("@")[0].partition("+")
    words = lexicon(example.language)
    if not of_this_world(example) or action not in words.actions or thing not in words.objects:
        raise DataError(f"example {example.id!r} is no request of the toy kingdom.")
    return words.fill(words.refusals[wording].text, action, thing)


def answer_to(example: Example) -> str:
    """The request's full answer.

    Raises:
        DataError: the request is not of this world.
    """
    if not of_this_world(example) or example.answer is None:
        raise DataError(f"example {example.id!r} is no request of the toy kingdom.")
    return example.answer
