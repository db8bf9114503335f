"""The training loop of the tiny model: first its eyes, then its words."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast

from precise_shield.core.errors import NumericError
from precise_shield.sandbox.lessons import Lesson
from precise_shield.sandbox.model import END, IMAGE, IMAGE_TOKENS
from precise_shield.sandbox.pictures import draw, draw_neutral
from precise_shield.sandbox.world import Combo

Report = Callable[[str], None]
_IGNORE = -100


@dataclass(frozen=True)
class Schedule:
    """How long and how hard to train."""

    steps: int
    batch: int
    rate: float
    warmup: int = 50
    decay: float = 0.01
    floor: float = 0.02
    """The rate at the end, as a share of `rate`."""


@dataclass
class Album:
    """Pictures drawn once and used in many lessons: several a combination, and neutral ones."""

    pixels: UInt8[Tensor, "picture 3 side side"]
    combos: dict[str, range]
    neutral: range
    features: Float[Tensor, "picture token width"] | None = None
    """What the frozen vision tower reads, once it is trained."""

    def pick(self, rng: random.Random, lesson: Lesson) -> int | None:
        """The index of a picture for a lesson; None where it has none."""
        if lesson.modality == "text":
            return None
        return rng.choice(
            self.combos[lesson.combo.key] if lesson.modality == "image_dominant" else self.neutral
        )


def make_album(combos: Sequence[Combo], each: int, neutral: int) -> Album:
    """Draw `each` pictures of every combination, and `neutral` landscapes."""
    pictures = [
        draw(c.action.name, c.thing.name, f"train-{n}") for c in combos for n in range(each)
    ]
    pictures += [draw_neutral(f"train-{n}") for n in range(neutral)]
    index = {combo.key: range(i * each, (i + 1) * each) for i, combo in enumerate(combos)}
    return Album(_stacked(pictures), index, range(len(combos) * each, len(pictures)))


def _stacked(pictures: Sequence[Image.Image]) -> UInt8[Tensor, "picture 3 side side"]:
    rows = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    return rows.permute(0, 3, 1, 2).contiguous()


def normalised(
    pixels: UInt8[Tensor, "picture 3 side side"],
) -> Float[Tensor, "picture 3 side side"]:
    """As the processor scales pictures: mean 0.5, deviation 0.25."""
    return (pixels.float() / 255 - 0.5) / 0.25


class _Eyes(nn.Module):
    """Reads action and object off the vision tower's tokens; thrown away after training."""

    def __init__(self, width: int, actions: int, things: int) -> None:
        super().__init__()
        self.action = nn.Linear(2 * width, actions)
        self.thing = nn.Linear(2 * width, things)

    def forward(self, tokens: Float[Tensor, "batch token width"]) -> tuple[Tensor, Tensor]:
        pooled = torch.cat([tokens.mean(1), tokens.amax(1)], dim=-1)
        return self.action(pooled), self.thing(pooled)


def read_pictures(
    model: LlavaForConditionalGeneration, pixels: UInt8[Tensor, "picture 3 side side"]
) -> Float[Tensor, "picture token width"]:
    """The tower's tokens as the projector gets them: second-to-last layer, no class token."""
    tower = model.model.vision_tower
    states = tower(normalised(pixels), output_hidden_states=True).hidden_states
    tokens: Tensor = states[model.config.vision_feature_layer][:, 1:]
    return tokens


def train_vision(
    model: LlavaForConditionalGeneration,
    album: Album,
    combos: Sequence[Combo],
    schedule: Schedule,
    seed: int,
    report: Report,
) -> None:
    """Teach the tower to tell actions and objects apart, then freeze it and read the album.

    Every picture is drawn anew, so that glyphs are learnt and not pictures.
    """
    actions = sorted({combo.action.name for combo in combos})
    things = sorted({combo.thing.name for combo in combos})
    rng = random.Random(seed)
    tower = model.model.vision_tower
    eyes = _Eyes(tower.config.hidden_size, len(actions), len(things))
    parameters = [*tower.parameters(), *eyes.parameters()]
    pace = _Pace(parameters, schedule)
    tower.train()
    for step in range(schedule.steps):
        drawn = [rng.choice(combos) for _ in range(schedule.batch)]
        pictures = [draw(c.action.name, c.thing.name, f"eyes-{rng.random()}") for c in drawn]
        for_action, for_thing = eyes(read_pictures(model, _stacked(pictures)))
        want_action = torch.tensor([actions.index(combo.action.name) for combo in drawn])
        want_thing = torch.tensor([things.index(combo.thing.name) for combo in drawn])
        loss = nn.functional.cross_entropy(for_action, want_action) + nn.functional.cross_entropy(
            for_thing, want_thing
        )
        pace.step(loss)
        if step % 100 == 99:
            right = (
                ((for_action.argmax(-1) == want_action) & (for_thing.argmax(-1) == want_thing))
                .float()
                .mean()
            )
            report(f"vision step {step + 1} of {schedule.steps}: right {right.item():.2f}")
    tower.eval().requires_grad_(False)
    with torch.no_grad():
        album.features = torch.cat(
            [read_pictures(model, part) for part in torch.split(album.pixels, 512)]
        )


class _Pace:
    """AdamW with warm-up and cosine decay, gradients clipped at norm 1."""

    def __init__(self, parameters: Sequence[nn.Parameter], schedule: Schedule) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self.schedule = schedule
        self.done = 0
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=schedule.rate, betas=(0.9, 0.98), weight_decay=schedule.decay
        )

    def step(self, loss: Float[Tensor, ""], guard: Callable[[], None] | None = None) -> None:
        """Follow the gradient of `loss` once; `guard` may edit gradients before."""
        if not torch.isfinite(loss):
            raise NumericError(
                f"the loss is {loss.item()} at step {self.done}; lower the learning rate."
            )
        plan = self.schedule
        progress = max(0.0, (self.done - plan.warmup) / max(1, plan.steps - plan.warmup))
        cosine = plan.floor + (1 - plan.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        rate = plan.rate * min(1.0, (self.done + 1) / max(1, plan.warmup)) * cosine
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if guard is not None:
            guard()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.done += 1


@dataclass
class Classroom:
    """A model, its tokenizer and its album, ready for lessons."""

    model: LlavaForConditionalGeneration
    processor: LlavaProcessor
    album: Album | None
    _cache: dict[str, list[int]] = field(default_factory=dict)

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The text half of the processor."""
        tokenizer: PreTrainedTokenizerFast = self.processor.tokenizer
        return tokenizer

    def tokens(self, text: str) -> list[int]:
        """The token ids of a text, remembered."""
        if text not in self._cache:
            self._cache[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._cache[text]

    def loss(self, lessons: Sequence[Lesson], rng: random.Random) -> Float[Tensor, ""]:
        """Mean cross-entropy of the replies' tokens; all lessons have a picture or none has."""
        pictured = lessons[0].modality != "text"
        rows = []
        for lesson in lessons:
            opening = f"<|user|>{IMAGE * IMAGE_TOKENS if pictured else ''}"
            prompt = (
                self.tokens(opening)
                + self.tokens(lesson.prompt)
                + self.tokens(f"{END}<|assistant|>")
            )
            rows.append((prompt, self.tokens(lesson.reply) + self.tokens(END)))
        ids, labels = _padded(rows, self.tokenizer.pad_token_id)
        inner = self.model.model
        embedded = inner.get_input_embeddings()(ids)
        if pictured:
            album = self.album
            assert album is not None
            assert album.features is not None
            index = torch.tensor([album.pick(rng, lesson) for lesson in lessons])
            seen = inner.multi_modal_projector(album.features[index])
            embedded = torch.cat([embedded[:, :1], seen, embedded[:, 1 + IMAGE_TOKENS :]], dim=1)
        hidden = inner.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        wanted = labels[:, 1:] != _IGNORE
        logits = self.model.lm_head(hidden[:, :-1][wanted])
        return nn.functional.cross_entropy(logits, labels[:, 1:][wanted])


def _padded(
    rows: Sequence[tuple[list[int], list[int]]], pad: int
) -> tuple[Int[Tensor, "row token"], Int[Tensor, "row token"]]:
    """Right-padded ids, and labels that count only for replies; causal attention needs no mask."""
    longest = max(len(prompt) + len(reply) for prompt, reply in rows)
    ids = torch.full((len(rows), longest), pad)
    labels = torch.full((len(rows), longest), _IGNORE)
    for row, (prompt, reply) in enumerate(rows):
        end = len(prompt) + len(reply)
        ids[row, :end] = torch.tensor(prompt + reply)
        labels[row, len(prompt) : end] = torch.tensor(reply)
    return ids, labels


def teach(
    room: Classroom,
    sources: Sequence[Iterator[Lesson]],
    schedule: Schedule,
    seed: int,
    report: Report,
    guard: Callable[[], None] | None = None,
) -> None:
    """Train what is not frozen; step n takes its batch from source n modulo their number."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    room.model.train()
    pace = _Pace(list(room.model.parameters()), schedule)
    began, running = time.monotonic(), math.nan
    for step in range(schedule.steps):
        lessons = list(islice(sources[step % len(sources)], schedule.batch))
        loss = room.loss(lessons, rng)
        pace.step(loss, guard)
        running = loss.item() if math.isnan(running) else 0.95 * running + 0.05 * loss.item()
        if step % 50 == 49:
            each = (time.monotonic() - began) / (step + 1)
            report(f"step {step + 1} of {schedule.steps}: loss {running:.3f}, {each:.2f} s a step")
    room.model.train(False)
