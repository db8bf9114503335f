"""More processes than prompts that are left: who has none waits, and does not fail."""

from __future__ import annotations

import shutil
from dataclasses import asdict

from precise_shield.core.parallel import Crew
from precise_shield.core.sites import NeuronSet
from precise_shield.core.summary import Condition
from precise_shield.workflows.align import conditions
from precise_shield.workflows.answer import states
from precise_shield.workflows.base import context, together
from precise_shield.workflows.base.context import Run


def test_a_process_without_a_prompt_answers_nothing_under_an_edit(finished, tmp_path, monkeypatch):
    run, _ = finished
    neurons = NeuronSet.of({next(iter(run.bound.sites)): [0, 1]})
    named = Condition(name="zero", kind="suppressed", label="zero", note="")
    state, example = conditions._suppressing(named, neurons), run.examples("test")[:1]
    alone, other = (Run(run.config, tmp_path / name, run.reporter) for name in ("one", "two"))
    vars(alone).update(loaded=run.loaded, bound=run.bound)
    vars(other).update(loaded=run.loaded, bound=run.bound)
    said = states.respond(alone, state, example)
    sent = []

    class Second(Crew):
        """The second of two processes; the first has answered."""

        def gather(self, value):
            sent.append(value)
            return [[asdict(row) for row in said], value]

        def as_leader(self, value):
            return [] if isinstance(value, list) else value

        def wait(self):
            shutil.copytree(alone.folder, other.folder, dirs_exist_ok=True)

    for module in (states, context, together):
        monkeypatch.setattr(module, "crew", lambda: Second(1, 2))
    assert states.respond(other, state, example) == said
    assert sent == [[]]
