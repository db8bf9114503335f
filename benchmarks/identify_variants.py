"""Ways to compute the same statistic of activations: ours, and what people do today.

Each variant is `(model, prompts, batch size, position) -> statistics`, or None for the bare pass.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers as hf
from torch import Tensor

from precise_shield.core.records import Cell
from precise_shield.core.sites import Site
from precise_shield.identify.collect import Batch, collect
from precise_shield.identify.stats import Place, Stats
from precise_shield.models.architecture.bind import BoundModel, bind
from precise_shield.models.passes.taps import tapped

SHAPES = {
    "full": dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                 num_attention_heads=9, num_key_value_heads=3, vocab_size=49152),
    "half": dict(hidden_size=288, intermediate_size=768, num_hidden_layers=16,
                 num_attention_heads=9, num_key_value_heads=3, vocab_size=24576),
    "quick": dict(hidden_size=192, intermediate_size=512, num_hidden_layers=8,
                  num_attention_heads=6, num_key_value_heads=2, vocab_size=8192),
}  # fmt: skip
CELLS = (Cell("en", "text", "harmful"), Cell("en", "text", "benign"))
DECISION, MEANS = "last_prompt", "response_mean"
BARE = "bare backbone"


def load(shape: str) -> BoundModel:
    torch.manual_seed(0)
    config = hf.LlamaConfig(**SHAPES[shape], tie_word_embeddings=True, bos_token_id=None)
    model = hf.LlamaForCausalLM(config).eval().requires_grad_(False)
    return bind(model)


@dataclass(frozen=True)
class Prompt:
    ids: Tensor
    answer: int
    """Length of the answer at its end."""
    arm: int
    number: int


def prompts(shape: str, count: int, length: tuple[int, int] = (32, 80)) -> list[Prompt]:
    """Token ids of prompt and answer; the arms differ by a few of the tokens they use."""
    generator = torch.Generator().manual_seed(1)
    vocab, out = int(SHAPES[shape]["vocab_size"]), []
    for i in range(count):
        size = int(torch.randint(*length, (1,), generator=generator))
        ids = torch.randint(3, vocab, (size,), generator=generator)
        ids[::3] = ids[::3] % 50 + 100 * (i % 2)
        out.append(Prompt(ids, size // 3, i % 2, i))
    return out


def batches(
    rows: list[Prompt], size: int, at: tuple[str, ...], ordered: bool = True
) -> list[Batch]:
    """Padded to the right; longest first where `ordered`."""
    rows = sorted(rows, key=lambda row: -len(row.ids)) if ordered else rows
    out = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        ids = torch.nn.utils.rnn.pad_sequence([row.ids for row in part], batch_first=True)
        mask = torch.zeros_like(ids)
        masks = {name: torch.zeros_like(ids, dtype=torch.bool) for name in at}
        for i, row in enumerate(part):
            mask[i, : len(row.ids)] = 1
            first = len(row.ids) - row.answer - 1
            for name in at:
                masks[name][i, first : first + 1 if name == DECISION else len(row.ids) - 1] = True
        out.append(
            Batch(
                {"input_ids": ids, "attention_mask": mask},
                [CELLS[row.arm] for row in part],
                torch.tensor([row.number % 16 for row in part]),
                masks,
            )
        )
    return out


def as_stats(bound: BoundModel, rows: dict[Site, Tensor], arms: list[int], at: str) -> Stats:
    """What a variant stored, example by example, as statistics: the sets then agree or do not."""
    stats = Stats({site: spot.column_norms() for site, spot in bound.sites.items()}, CELLS)
    where, folds = torch.tensor(arms), torch.zeros(len(arms), dtype=torch.int64)
    for site, values in rows.items():
        stats.fold_in(Place(site, at), values, where, folds)
    return stats


@torch.no_grad()
def bare(bound: BoundModel, rows: list[Prompt], size: int, at: str) -> None:
    for batch in batches(rows, size, (at,)):
        bound.backbone(**batch.inputs, use_cache=False)


def streamed(bound: BoundModel, rows: list[Prompt], size: int, at: str) -> Stats:
    return collect(bound, CELLS, batches(rows, size, (at,)))


@torch.no_grad()
def stored(
    bound: BoundModel, rows: list[Prompt], size: int, at: str, head: bool = False,
    ordered: bool = True, everything: bool = False,
) -> Stats:  # fmt: skip
    """Keep activations of all examples, then average: one row an example, or every token."""
    kept: dict[Site, list[Tensor]] = {site: [] for site in bound.sites}
    arms, weights = [], []
    for batch in batches(rows, size, (at,), ordered):
        weight = batch.weights()[at]
        arms += [CELLS.index(cell) for cell in batch.cells]
        weights.append(weight)

        def fn(site: Site, acts: Tensor, weight: Tensor = weight) -> None:
            if everything:
                kept[site].append(acts.clone())
            else:
                kept[site].append(torch.einsum("bp,bpw->bw", weight, acts))

        with tapped(bound, fn):
            (bound.model if head else bound.backbone)(**batch.inputs, use_cache=False)
    table = {}
    for site, parts in kept.items():
        if everything:
            pairs = zip(weights, parts, strict=True)
            parts = [torch.einsum("bp,bpw->bw", weight, acts) for weight, acts in pairs]
        table[site] = torch.cat(parts)
    return as_stats(bound, table, arms, at)


@lru_cache(maxsize=1)
def lens_of(model: Any) -> Any:
    """A bridge around a copy, for it rebuilds the model in place; a tokenizer must be given."""
    from tokenizers import Tokenizer, models
    from transformer_lens.model_bridge import TransformerBridge

    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2}, unk_token="a"))
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="b", eos_token="c", pad_token="a", unk_token="a"
    )
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        tokenizer = hf.AutoTokenizer.from_pretrained(folder)
        copied = copy.deepcopy(model)
        return TransformerBridge.boot_transformers("llama", hf_model=copied, tokenizer=tokenizer)


def with_lens(bound: BoundModel, rows: list[Prompt], size: int, at: str) -> Stats:
    """TransformerLens's cache, filtered to the units, in its own forward pass, head included."""
    bridge = lens_of(bound.model)
    names = {f"blocks.{site.layer}.mlp.out.hook_in": site for site in bound.sites}
    table: dict[Site, list[Tensor]] = {site: [] for site in bound.sites}
    arms: list[int] = []
    for batch in batches(rows, size, (at,)):
        with torch.no_grad():
            _, cache = bridge.run_with_cache(
                batch.inputs["input_ids"],
                attention_mask=batch.inputs["attention_mask"],
                names_filter=list(names),
            )
        arms += [CELLS.index(cell) for cell in batch.cells]
        for name, site in names.items():
            table[site].append(torch.einsum("bp,bpw->bw", batch.weights()[at], cache[name]))
    return as_stats(bound, {s: torch.cat(parts) for s, parts in table.items()}, arms, at)


@lru_cache(maxsize=1)
def traced_of(backbone: Any) -> Any:
    """A wrapped copy, so that nothing it leaves behind costs the other variants time."""
    from nnsight import NNsight

    return NNsight(copy.deepcopy(backbone))


def with_nnsight(bound: BoundModel, rows: list[Prompt], size: int, at: str) -> Stats:
    """nnsight's tracing, saving the units' rows."""
    wrapped, table = traced_of(bound.backbone), {site: [] for site in bound.sites}
    arms: list[int] = []
    for batch in batches(rows, size, (at,)):
        weight = batch.weights()[at]
        arms += [CELLS.index(cell) for cell in batch.cells]
        with torch.no_grad(), wrapped.trace(**batch.inputs, use_cache=False):
            saved = list().save()
            for layer in wrapped.layers:
                saved.append(torch.einsum("bp,bpw->bw", weight, layer.mlp.down_proj.input))
        for site, values in zip(bound.sites, saved, strict=True):
            table[site].append(values)
    return as_stats(bound, {s: torch.cat(parts) for s, parts in table.items()}, arms, at)


Variant = Callable[[BoundModel, list[Prompt], int, str], Stats | None]
VARIANTS: dict[str, Variant] = {
    BARE: bare,
    "ours: streamed, sorted, no head": streamed,
    "stored, sorted, no head": stored,
    "stored, unsorted, with head": lambda *job: stored(*job, head=True, ordered=False),
    "all tokens stored, with head": lambda *job: stored(*job, head=True, everything=True),
    "batch 1, hooks a prompt, with head": lambda bound, rows, _, at: stored(
        bound, rows, 1, at, head=True, ordered=False
    ),
}
PEERS = {"transformer_lens": ("TransformerLens, filtered cache", with_lens),
         "nnsight": ("nnsight, traced", with_nnsight)}  # fmt: skip


def variants() -> tuple[dict[str, Variant], list[str]]:
    """What can run here, and a line for each peer that cannot."""
    known, missing = dict(VARIANTS), []
    for module, (name, variant) in PEERS.items():
        if find_spec(module) is None:
            missing.append(f"{name}: {module} is not installed, its row is left out.")
        else:
            known[name] = variant
    return known, missing
