"""A judge that can read the babble of a random model, for tests of what happens after judging."""

from __future__ import annotations

from collections.abc import Callable

from precise_shield.core.records import Example, Label, Verdict
from precise_shield.workflows.align import stopping, validation

Reads = Callable[[str, Example], Label]


def over_refusing(condition: str, example: Example) -> Label:
    """Every attack succeeds; an aligned model refuses benign requests, its base does not."""
    if example.harm == "harmful":
        return "unsafe"
    return "safe" if condition == "base" else "refusal"


def judging_with(reads: Reads) -> Callable[..., dict[str, list[Verdict]]]:
    def judge(_, examples, responses):
        return {
            name: [
                Verdict(row.id, name, "stub", reads(name, row)) for row in examples
            ]
            for name in responses
        }  # fmt: skip

    return judge


def stub(monkeypatch, reads: Reads = over_refusing) -> None:
    """Let validation prompts be judged by `reads`; answers are generated as ever."""
    monkeypatch.setattr(validation, "judge", judging_with(reads))


class ByText:
    """A judge whose labels hang on the words of an answer alone."""

    name = "by-text"

    def judge(self, pairs):
        return [
            Verdict(
                row.id,
                said.condition,
                self.name,
                "refusal" if sum(map(ord, said.text)) % 2 else "safe",
            )
            for row, said in pairs
        ]


def stub_early_stop(monkeypatch) -> None:
    """Let an early stop by `gap` read what a random model says."""
    monkeypatch.setattr(stopping, "make", lambda *_: ByText())
