"""Deciding or writing: every tested set through the same readouts, beside its random sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from precise_shield.core.rates import or_null
from precise_shield.core.records import Example
from precise_shield.core.sites import NeuronSet
from precise_shield.core.store import digest
from precise_shield.core.summary import Component, Role
from precise_shield.core.summary.causal import ComponentName, ComponentScope
from precise_shield.data.contrast import fingerprint
from precise_shield.evaluate.counting.roles import verdicts
from precise_shield.models.loading.model import LoadedModel
from precise_shield.models.readings.likelihood import State, answers_under
from precise_shield.models.readings.readout import FirstTokenReadout
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.verify.panel import UNTOUCHED, Surgery, key
from precise_shield.workflows.verify.role_answers import judged_refusal

ROLE_SEED = 50_000
"""Seeds of these random sets start here."""

Off = Callable[[NeuronSet, ComponentScope], State]
"""Makes the state in which a set is suppressed at some positions."""


@dataclass(frozen=True)
class Reading:
    """One readout in several states.

    Shapes: `values` is `[states, items]`, in nats; `share` `[states]`, in [0, 1].
    """

    values: Float[Tensor, "states items"]
    share: Float[Tensor, " states"] | None = None


@dataclass(frozen=True)
class Readable:
    """Something the untouched model does, and how to read how well it does it.

    `lacking` says why it cannot be measured; empty if it can.
    """

    name: ComponentName
    scopes: tuple[ComponentScope, ...]
    read: Callable[[Sequence[State]], Reading]
    lacking: Callable[[Reading], str]
    items: int
    made_by: str
    """Digest of what is asked."""


def missing(name: ComponentName, scopes: tuple[ComponentScope, ...], why: str) -> Readable:
    """A readout for which there are no items."""
    none = Reading(torch.zeros(1, 0))
    return Readable(name, scopes, lambda _: none, lambda _: why, 0, digest([name, why]))


def first_token(
    readout: FirstTokenReadout, made_by: str, lacking: str = "", name: ComponentName = "refusal"
) -> Readable:
    """How likely the answer starts as a refusal, with the set off at the prompt.

    `context` spares the last prompt position, at which the first word is written.
    """

    def read(states: Sequence[State]) -> Reading:
        rows = []
        for state in states:
            with state():
                rows.append(readout())
        return Reading(torch.stack(rows))

    of = digest([made_by, lacking])
    return Readable(name, ("prompt", "context"), read, lambda _: lacking, readout.size, of)


@dataclass(frozen=True)
class Item:
    """A prompt and what is said to it, or what should and should not be."""

    example: Example
    text: str
    wrong: str = ""


LIKELIEST = {"continuation": 0.3, "apology": 0.3, "copying": 0.6}
"""Share of tokens that have to be the untouched model's first choice for it to write such texts
at all; a copy is hardly one below."""


def given_text(
    loaded: LoadedModel, name: ComponentName, items: Sequence[Item], batch_size: int, skip: int = 0
) -> Readable:
    """Log-probability a token of given texts, `skip` of them left out at the start."""
    examples, texts = [item.example for item in items], [item.text for item in items]

    def read(states: Sequence[State]) -> Reading:
        seen = answers_under(loaded, examples, texts, states, batch_size, skip)
        return Reading(seen.mean, seen.likeliest.mean(1))

    def lacking(base: Reading) -> str:
        assert base.share is not None
        share, least = float(base.share[0]), LIKELIEST[name]
        if share >= least:
            return ""
        return f"the untouched model puts {share:.0%} of the tokens first, below {least:.0%}"

    made_by = digest([name, *_asked(examples, texts), skip])
    return Readable(name, ("prompt", "response"), read, lacking, len(items), made_by)


def _asked(examples: Sequence[Example], *said: Sequence[str]) -> list[object]:
    """Everything that a readout depends on: prompts, pictures by their bytes, and what is said."""
    ids = [example.id for example in examples]
    return [fingerprint({e.id: e for e in examples}.values()), ids, *said]


def judging(loaded: LoadedModel, items: Sequence[Item], batch_size: int) -> Readable:
    """Log-odds of the right against the wrong answer to "is this safe?", and the accuracy."""
    examples = [item.example for item in items]
    right, wrong = ([i.text for i in items], [i.wrong for i in items])

    def read(states: Sequence[State]) -> Reading:
        one, two = (
            answers_under(loaded, examples, said, states, batch_size).logprob
            for said in (right, wrong)
        )
        return Reading(one - two, (one > two).double().mean(1))

    def lacking(base: Reading) -> str:
        assert base.share is not None
        share, n = float(base.share[0]), len(items)
        chance = 0.5 + 1.645 * 0.5 / n**0.5
        if share >= chance:
            return ""
        return f"the untouched model is right in {share:.0%} of {n}, which may be chance"

    made_by = digest(_asked(examples, right, wrong))
    return Readable("judging", ("prompt",), read, lacking, len(items), made_by)


def components(
    readables: Sequence[Readable],
    neurons: NeuronSet,
    drawn: Sequence[NeuronSet],
    off: Off,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Component]:
    """Every readout with the set and with each random set suppressed, scope by scope."""
    rows = []
    for each in readables:
        base = each.read([UNTOUCHED])
        why = each.lacking(base)
        for scope in each.scopes:
            if why:
                rows.append(_empty(each, scope, base, why))
            else:
                states = [UNTOUCHED, *(off(one, scope) for one in (neurons, *drawn))]
                rows.append(_row(each, scope, each.read(states)))
            advance(1)
    return rows


def _empty(each: Readable, scope: ComponentScope, base: Reading, why: str) -> Component:
    return Component(
        name=each.name,
        scope=scope,
        n=each.items,
        base=or_null(float(base.values[0].mean())),
        suppressed=None,
        random=[],
        p_value=None,
        able=False,
        note=why,
    )


def _row(each: Readable, scope: ComponentScope, reading: Reading) -> Component:
    base, suppressed, *random = reading.values.mean(1).tolist()
    share = None
    if reading.share is not None:
        share = (float(reading.share[0]), float(reading.share[1]))
    return Component(
        name=each.name,
        scope=scope,
        n=each.items,
        base=base,
        suppressed=suppressed,
        random=[round(value, 4) for value in random],
        p_value=(1 + sum(value <= suppressed for value in random)) / (1 + len(random)),
        share=share,
        able=True,
    )


def roles(run: Run, readables: Sequence[Readable]) -> list[Role]:
    """A verdict on every configured set.

    Raises:
        ConfigError: a set expression does not parse.
        EmptySetError: a set holds no neuron.
    """
    section, surgery = run.config.verify.roles, Surgery(run)
    tested, judged = [], []
    for name in dict.fromkeys(section.sets):
        neurons = surgery.named(name)
        made_by = key(
            run,
            neurons=digest(neurons.to_json()),
            random_sets=section.random_sets,
            readouts=[each.made_by for each in readables],
        )
        stage = run.store.stage("role", made_by)
        with run.working(stage, f"deciding or writing: {name}") as todo:
            if todo:
                drawn = surgery.random(neurons, section.random_sets, ROLE_SEED)
                work = sum(len(each.scopes) for each in readables)
                with run.reporter.bar(f"role of {name}", work) as advance:
                    rows = components(readables, neurons, drawn, surgery.off, advance)
                stage.write_json("role.json", [row.model_dump(mode="json") for row in rows])
        rows = [Component.model_validate(row) for row in stage.read_json("role.json")]
        tested.append((name, len(neurons), rows))
        judged.append(judged_refusal(run, surgery, name, neurons))
    return [
        role.model_copy(update={"judged": each})
        for role, each in zip(verdicts(tested), judged, strict=True)
    ]
