"""A real Llama in which known neurons decide to refuse and known ones write refusals.

It is trained for a few seconds on a toy world, with the two circuits forced through designated
neurons by structure, so that recall and precision can be asserted:

- harmful and benign words have the same embedding but for the sign of one dimension, which only
  the deciding neurons of the first layer read; only they write two dimensions of their own;
- the output rows of refusal words are non-zero only in dimensions that only the writing neurons
  of the last layer write.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

from precise_shield.core.records import Example
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.models.loading.files import quiet
from precise_shield.models.loading.model import LoadedModel, load
from precise_shield.models.loading.spec import ModelSpec

SPECIAL = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"]
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|> {{ m.content }} <|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
THINGS, WORDINGS, LAYERS, FFN, HIDDEN = 12, 6, 3, 64, 48
REFUSALS = [f"nay{k} nope{k} never{k}" for k in range(WORDINGS)]
"""Wordings 0 and 1 are for probing; the last two are only ever read out."""

SORRY = [f"alas {text}" for text in REFUSALS]
WORDS = [
    *(f"bad{n}" for n in range(THINGS)), *(f"good{n}" for n in range(THINGS)),
    *(f"tool{n}" for n in range(THINGS)), *(f"moon{n}" for n in range(4)),
    "do", "safe?", "repeat", "fetch", "take", "then", "ok", "yes", "no", "alas",
    *(word for text in REFUSALS for word in text.split()),
]  # fmt: skip
DECIDING = NeuronSet.of({Site("text", 0): range(6)})
WRITING = NeuronSet.of({Site("text", LAYERS - 1): range(6)})
HARM, DECIDED, WRITTEN = 0, (1, 2), (3, 4, 5, 6, 7, 8)
"""Dimensions of the residual stream that are kept apart."""


def tokenizer() -> hf.PreTrainedTokenizerFast:
    vocab = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    plain = Tokenizer(models.WordLevel(vocab, unk_token="<|pad|>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = hf.PreTrainedTokenizerFast(
        tokenizer_object=plain,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=SPECIAL[2:],
    )
    made.chat_template = TEMPLATE
    return made


def lesson(rng: random.Random) -> tuple[str, str, bool]:
    """What is asked, what is said, and whether saying just that is right.

    Whatever an answer starts with, it goes on as it started: a decision is made once.
    """
    task, n = rng.randrange(7), rng.randrange(THINGS)
    if task == 6:
        said = rng.choice([rng.choice(REFUSALS), f"take tool{n} ok"])
        return f"do {rng.choice(['bad', 'good'])}{n}", said, False
    return (*prompts(rng, task, n), True)


def prompts(rng: random.Random, task: int, n: int) -> tuple[str, str]:
    """One lesson of a task: what is asked and what is right to say."""
    refusal = rng.choice(REFUSALS)
    if task == 0:
        return f"do bad{n}", refusal
    if task == 1:
        return f"do good{n}", f"take tool{n} ok"
    if task == 2:
        harmful = rng.random() < 0.5
        return f"safe? {'bad' if harmful else 'good'}{n}", "no" if harmful else "yes"
    if task == 3:
        return f"fetch moon{rng.randrange(4)}", rng.choice(SORRY)
    if task == 4:
        return f"repeat {refusal}", refusal
    other = f"take tool{n} then"
    return f"repeat {other}", other


@dataclass
class Circuit:
    """The structure: masks of weights, and the fixed rows of the deciding neurons."""

    model: hf.LlamaForCausalLM

    def enforce(self) -> None:
        """Put back what training may not touch."""
        with torch.no_grad():
            self._words()
            for number, layer in enumerate(self.model.model.layers):
                self._layer(number, layer.self_attn, layer.mlp)

    def _words(self) -> None:
        table, head = self.model.model.embed_tokens.weight, self.model.lm_head.weight
        words = {word: i + len(SPECIAL) for i, word in enumerate(WORDS)}
        table[:, [HARM, *DECIDED, *WRITTEN]] = 0
        for n in range(THINGS):
            table[words[f"bad{n}"]] = table[words[f"good{n}"]]
            table[words[f"bad{n}"], HARM], table[words[f"good{n}"], HARM] = 2.0, -2.0
        refused = [words[word] for text in REFUSALS for word in text.split()]
        kept = head[refused][:, list(WRITTEN)].clone()
        head[:, [HARM, *WRITTEN]] = 0
        head[refused] = 0
        for row, values in zip(refused, kept, strict=True):
            head[row, list(WRITTEN)] = values

    def _layer(self, number: int, attention: nn.Module, ffn: nn.Module) -> None:
        readers = (attention.q_proj, attention.k_proj, attention.v_proj, ffn.gate_proj, ffn.up_proj)
        for reader in readers:
            reader.weight[:, [HARM, *WRITTEN]] = 0
        own, down, dims = list(range(6)), ffn.down_proj.weight, list(WRITTEN)
        kept = down[dims][:, own].clone()
        for weight in (attention.o_proj.weight, down):
            weight[[HARM, *DECIDED, *WRITTEN]] = 0
        if number == 0:
            dims, kept = list(DECIDED), torch.tensor([[1.0] * 3 + [0.0] * 3, [0.0] * 3 + [1.0] * 3])
            for matrix in (ffn.gate_proj.weight, ffn.up_proj.weight):
                matrix[:6] = 0
                matrix[:6, HARM] = 2.0
        if number in (0, LAYERS - 1):
            down[:, own] = 0
            for row, values in zip(dims, kept, strict=True):
                down[row, own] = values


def _batch(rng: random.Random, ids_of: Callable[[str], list[int]], end: int, size: int):
    rows = []
    for _ in range(size):
        asked, said, right = lesson(rng)
        head = ids_of(f"<|user|> {asked} <|end|> <|assistant|>")
        rows.append((head, [*ids_of(said), end], right))
    width = max(len(head) + len(tail) for head, tail, _ in rows)
    ids, labels = torch.zeros(size, width, dtype=torch.long), torch.full((size, width), -100)
    for row, (head, tail, right) in enumerate(rows):
        ids[row, : len(head) + len(tail)] = torch.tensor([*head, *tail])
        skip = 0 if right else 1
        labels[row, len(head) + skip : len(head) + len(tail)] = torch.tensor(tail[skip:])
    return ids, labels


def train(steps: int = 700, seed: int = 0) -> hf.LlamaForCausalLM:
    """A model that refuses, judges, answers, apologises and repeats."""
    torch.manual_seed(seed)
    words, rng = tokenizer(), random.Random(seed)
    ids_of = cache(lambda text: words(text)["input_ids"])
    config = hf.LlamaConfig(
        vocab_size=len(words), hidden_size=HIDDEN, intermediate_size=FFN, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=64,
        pad_token_id=0, eos_token_id=1, bos_token_id=None, tie_word_embeddings=False,
        initializer_range=0.15,
    )  # fmt: skip
    model = hf.LlamaForCausalLM(config)
    circuit = Circuit(model)
    circuit.enforce()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=steps)
    refused = torch.tensor(sorted({i for text in REFUSALS for i in ids_of(text)}))
    acts: list[torch.Tensor] = []
    last = model.model.layers[-1].mlp.down_proj
    handle = last.register_forward_pre_hook(lambda _, args: acts.append(args[0][..., :6]))
    for _ in range(steps):
        ids, labels = _batch(rng, ids_of, words.eos_token_id, 64)
        acts.clear()
        loss = model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss
        silent = ~torch.isin(labels.roll(-1, 1), refused)
        loss = loss + 0.02 * acts[0][silent].abs().mean()  # writers rest where nothing is refused
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        circuit.enforce()
    handle.remove()
    return model.train(False)


def saved(folder: Path, steps: int = 700) -> LoadedModel:
    """The planted model, saved to `folder` and loaded from there as a user would."""
    with quiet():
        train(steps).save_pretrained(folder)
        tokenizer().save_pretrained(folder)
    return load(ModelSpec(str(folder), device="cpu"))


def example(prompt: str, harmful: bool, target: str | None, split: str, number: int) -> Example:
    return Example(
        id=f"{split}-{number}-{prompt}",
        language="en",
        modality="text",
        harm="harmful" if harmful else "benign",
        prompt=prompt,
        split=split,
        group=f"g{number}",
        target=target,
    )


def probing() -> list[Example]:
    """Harmful with a refusal in a probed wording, benign with its answer, word by word."""
    rows = []
    for n in range(THINGS):
        rows.append(example(f"do bad{n}", True, REFUSALS[n % 2], "probe", n))
        rows.append(example(f"do good{n}", False, f"take tool{n} ok", "probe", n))
    return rows
