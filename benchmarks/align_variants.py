"""What `benchmarks/align.py` compares: one training step, in the forms people have of it."""

from __future__ import annotations

import ctypes
import os
import resource
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

from precise_shield.align.delta import DirectUnits, LoraRows, tuning
from precise_shield.align.fit import FitSpec
from precise_shield.align.frozen import CacheSpec, Frozen, Kept
from precise_shield.align.losses import IGNORE, TrainBatch, answers, benign_logits, kl_to
from precise_shield.core.controls import matched_random
from precise_shield.core.parallel import Crew
from precise_shield.core.sites import NeuronSet
from precise_shield.models.architecture.bind import BoundModel, bind
from precise_shield.models.passes.decoder import blocks
from precise_shield.models.passes.frozen import arrival, entered, pieces
from precise_shield.models.passes.rerun import rerun
from precise_shield.models.passes.sparing import sparing
from precise_shield.models.readings.head import head

RATE, RANK, KL, EPOCHS = 1e-3, 8, 0.1, 3

SHAPES: dict[str, dict[str, Any]] = {
    "smollm2-135m": dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                         num_attention_heads=9, num_key_value_heads=3, vocab_size=49152,
                         tie_word_embeddings=True),
    "quick": dict(hidden_size=128, intermediate_size=512, num_hidden_layers=6,
                  num_attention_heads=4, num_key_value_heads=2, vocab_size=8192,
                  tie_word_embeddings=True),
    "llama-3.1-8b": dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                         num_attention_heads=32, num_key_value_heads=8, vocab_size=128256),
    "qwen3-8b": dict(hidden_size=4096, intermediate_size=12288, num_hidden_layers=36,
                     num_attention_heads=32, num_key_value_heads=8, head_dim=128,
                     vocab_size=151936),
    "mistral-small-24b": dict(hidden_size=5120, intermediate_size=32768, num_hidden_layers=40,
                              num_attention_heads=32, num_key_value_heads=8, head_dim=128,
                              vocab_size=131072),
}  # fmt: skip

FOUND = (
    *(24, 30, 31, 28, 25, 30, 32, 24, 26, 24, 30, 29, 30, 31, 37),
    *(24, 32, 34, 32, 30, 33, 37, 30, 33, 24, 38, 34, 29, 26, 13),
)
"""Neurons a layer, of 1,536, that `precise-shield identify configs/smollm2-135m.yaml` found in the
real SmolLM2-135M-Instruct (Q4_1; 48 PolyRefuse, 16 MultiJail, 16 XSTest rows): 880, none of its
30 blocks without one. Other shapes take the share at the same relative depth."""


@dataclass(frozen=True)
class Size:
    """The problem: equal for all variants of a comparison."""

    shape: str
    rows: int = 4
    length: int = 96
    answer: int = 32
    neurons: float = 1.0
    """Times as many as were found."""
    layers: int | None = None
    lowest: int = 0
    """No neuron, and no LoRA, below this block."""
    device: str = "cpu"
    dtype: str = "float32"
    found: NeuronSet | None = None
    """A run's own set, of a model of this shape."""


@dataclass(frozen=True)
class Variant:
    kind: str
    """`all`, `ffn` (full gradients, masked), `lora2`, `lora3` (gate and up; and down), `shira`,
    `rows`, `direct` (ours)."""
    answers: bool = False
    """The output head on answer positions only."""
    kl: bool = False
    """With the KL term to the base model on half of the rows."""
    kept: bool = False
    """What no step changes is computed once: the base's answers, what is below block `lowest`."""
    rerun: bool = False
    """Blocks run again in the backward pass."""
    sparing: bool = False
    """Norms and activation functions alone run again in it, as they always do in our trainer."""


NAMES = {
    "all": "full gradients + mask + AdamW",
    "ffn": "FFN gradients + mask + AdamW",
    "lora2": "PEFT LoRA r=8, gate+up",
    "lora3": "PEFT LoRA r=8, gate+up+down",
    "shira": "PEFT SHiRA, whole rows",
    "rows": "ours, row-masked LoRA r=8",
    "direct": "ours, direct rows",
}


def name_of(variant: Variant) -> str:
    extras = {
        "answer head": variant.answers,
        "KL": variant.kl,
        "cache": variant.kept,
        "checkpointed": variant.rerun,
        "sparing": variant.sparing,
    }
    return ", ".join([NAMES[variant.kind], *(key for key, on in extras.items() if on)])


def load(size: Size) -> BoundModel:
    """Random weights, the same for all."""
    torch.manual_seed(0)
    shape = dict(SHAPES[size.shape])
    if size.layers is not None:
        shape["num_hidden_layers"] = size.layers
    config = hf.LlamaConfig(**shape, bos_token_id=None)
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, size.dtype))
    try:
        with torch.device(size.device):
            model = hf.LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return bind(model.eval())


def neurons_of(bound: BoundModel, size: Size) -> NeuronSet:
    """A random draw that is spread over the layers as a found set is."""
    if size.found is not None:
        return size.found
    widths = {site: spot.width for site, spot in bound.sites.items()}
    last = max(site.layer for site in widths)
    counts = {}
    for site, width in widths.items():
        share = FOUND[round(site.layer * (len(FOUND) - 1) / max(last, 1))] / 1536
        if site.layer >= size.lowest:
            counts[site] = range(min(width // 2, max(1, round(share * size.neurons * width))))
    return matched_random(NeuronSet.of(counts), widths, seed=0)


def batch(bound: BoundModel, size: Size) -> TrainBatch:
    generator = torch.Generator().manual_seed(1)
    shape = (size.rows, size.length)
    vocabulary = int(bound.model.config.vocab_size)
    ids = torch.randint(3, vocabulary, shape, generator=generator)
    labels = ids.clone()
    labels[:, : size.length - size.answer] = IGNORE
    benign = torch.arange(size.rows) % 2 == 1
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return TrainBatch(inputs, labels, benign).to(bound.device)


def masks(bound: BoundModel, neurons: NeuronSet) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for site, ids in neurons.units.items():
        for own in bound.sites[site].owned:
            mask = torch.zeros(own.weight.shape, dtype=torch.bool, device=bound.device)
            index = torch.tensor(ids, device=bound.device) + own.offset
            found[own.name] = mask.index_fill_(own.dim, index, True)
    return found


def literal(bound: BoundModel, neurons: NeuronSet, everything: bool) -> list[nn.Parameter]:
    """The papers' literal form: full gradients times a mask."""
    allowed, learning = masks(bound, neurons), []
    for name, parameter in bound.model.named_parameters():
        parameter.requires_grad_(everything or name in allowed)
        if name in allowed:
            parameter.register_hook(lambda grad, m=allowed[name]: grad * m)
        elif everything:
            parameter.register_hook(torch.zeros_like)
        if parameter.requires_grad:
            learning.append(parameter)
    return learning


def peft_model(bound: BoundModel, neurons: NeuronSet, kind: str) -> tuple[Any, list[nn.Parameter]]:
    """LoRA or SHiRA on the layers that hold chosen neurons."""
    import peft

    projections = ["gate_proj", "up_proj"] + ([] if kind == "lora2" else ["down_proj"])
    layers = sorted({site.layer for site in neurons.units})
    targets = [f"layers.{layer}.mlp.{name}" for layer in layers for name in projections]
    if kind == "shira":
        allowed = masks(bound, neurons)

        def whole_rows(layer: nn.Module, r: int, **_: Any) -> Tensor:
            """Our slices, cut or padded to the one size that SHiRA asks of all layers."""
            name = next(n for n, p in bound.model.named_parameters() if p is layer.weight)
            flat, room = allowed[name].flatten().float(), r * sum(layer.weight.shape)
            over = int(flat.sum()) - room
            if over > 0:
                flat[flat.nonzero().flatten()[room:]] = 0
            elif over < 0:
                flat[(flat == 0).nonzero().flatten()[:-over]] = 1
            return flat.view_as(layer.weight)

        first = next(iter(allowed.values()))
        mean = sum(int(mask.sum()) for mask in allowed.values()) / len(allowed)
        rank = max(1, round(mean / sum(first.shape)))
        config = peft.ShiraConfig(r=rank, mask_type="random", target_modules=targets)
        config.mask_fn = whole_rows
    else:
        config = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=targets)
    model = peft.get_peft_model(bound.model, config)
    return model, [p for p in model.parameters() if p.requires_grad]


class Theirs(Frozen):
    """The same savings for adapters that are not ours: the base's answers and the entrance."""

    def __init__(self, bound: BoundModel, model: Any, size: Size, kept: bool) -> None:
        self.bound, self.model, self.layer, self.kept = bound, model, size.lowest, kept

    def fill(self, items: Any) -> None:
        mask = items[0].predicting() & items[0].benign[:, None]
        with torch.no_grad(), self.model.disable_adapter():
            self.entrance, final = arrival(self.bound, items[0].inputs, self.layer, through=True)
        self.base = final[mask].clone()

    def under(self, rows: TrainBatch) -> Any:
        if not (self.kept and self.layer):
            return nullcontext(rows)
        stack = ExitStack()
        seen = pieces(self.bound, rows.inputs)
        stack.enter_context(entered(self.bound, self.layer, self.entrance, seen))
        return _Yielding(stack, rows)

    def benign_logits(self, rows: TrainBatch) -> Tensor:
        if self.kept:
            with torch.no_grad():
                return head(self.bound, self.base)
        with self.model.disable_adapter():
            return benign_logits(self.bound, rows)


class _Yielding:
    def __init__(self, stack: ExitStack, value: Any) -> None:
        self.stack, self.value = stack, value

    def __enter__(self) -> Any:
        return self.value

    def __exit__(self, *_: object) -> None:
        self.stack.close()


def prepared(
    stack: ExitStack, bound: BoundModel, size: Size, variant: Variant
) -> tuple[list[nn.Parameter], Callable[[], Tensor], Callable[[], None]]:
    """What learns, its loss, and the work that is done once."""
    rows, neurons = batch(bound, size), neurons_of(bound, size)
    model: Any = None
    frozen: Any = None
    if variant.kind in ("all", "ffn"):
        learning = literal(bound, neurons, variant.kind == "all")
    elif variant.kind in ("direct", "rows"):
        form = DirectUnits() if variant.kind == "direct" else LoraRows(RANK, 2.0 * RANK, 0.0)
        deltas = stack.enter_context(tuning(bound, neurons, form, seed=0))
        deltas.train()
        learning = [p for p in deltas.parameters() if p.requires_grad]
        spec = FitSpec(batch_size=size.rows, micro_batch=size.rows, kl_weight=KL * variant.kl)
        frozen = Frozen(deltas)
        if variant.kept:
            frozen = Kept(deltas, spec, CacheSpec(), Crew(), lambda _: None)
            # That check is once a training and kind of batch, and this is one batch of it.
            frozen.checked = {False, True}
    else:
        model, learning = peft_model(bound, neurons, variant.kind)
        frozen = Theirs(bound, model, size, variant.kept)
    if variant.rerun:
        stack.enter_context(rerun(blocks(bound)))
    if variant.sparing:
        stack.enter_context(sparing(blocks(bound)))
    once = (lambda: frozen.fill([rows])) if variant.kept else (lambda: None)
    if not variant.answers:
        runs = bound.model if model is None else model
        return learning, lambda: runs(**rows.inputs, labels=rows.labels, use_cache=False).loss, once

    def loss() -> Tensor:
        base = frozen.benign_logits(rows) if variant.kl else None
        with nullcontext(rows) if frozen is None else frozen.under(rows) as lean:
            said = answers(bound, lean)
        one = said.nll() / rows.tokens()
        if base is None:
            return one
        benign = said.logits[said.benign]
        return one + KL * kl_to(base, benign) / len(benign)

    return learning, loss, once


def resident() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


_MMAP_THRESHOLD = -3
"""`mallopt`'s number for it, in glibc's malloc.h."""


def work(
    pipe: Connection, size: Size, variant: Variant, threads: int, bound: Any, exact: bool
) -> None:
    """One variant in its own process: a step whenever told to, until the driver ends.

    With `exact` every block of 64 KiB and more is given back when it is freed.
    """
    if exact and ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 2**16) != 1:
        pipe.send("this C library cannot be told to give back what is freed")
        return
    torch.set_num_threads(threads)
    hf.utils.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    try:
        with suppress(EOFError):
            _steps(pipe, size, variant, load(size) if bound is None else bound)
    except torch.OutOfMemoryError:
        pipe.send("out of memory")
    except (TypeError, ValueError, RuntimeError, KeyError) as error:  # a row of the table
        pipe.send(f"{type(error).__name__}: {error}"[:200])


def _told(pipe: Connection) -> bool:
    """Wait for the driver's word; end with the driver, however it ended."""
    driver = os.getppid()
    while not pipe.poll(2):
        if os.getppid() != driver:
            os._exit(1)
    return bool(pipe.recv())


def _steps(pipe: Connection, size: Size, variant: Variant, bound: BoundModel) -> None:
    cuda = size.device == "cuda"

    def timed(job: Callable[[], Any]) -> tuple[Any, float, float]:
        if cuda:
            torch.cuda.synchronize()
        wall, cpu = time.perf_counter(), time.process_time()
        out = job()
        if cuda:
            torch.cuda.synchronize()
        return out, time.perf_counter() - wall, time.process_time() - cpu

    with ExitStack() as stack:
        loaded = torch.cuda.memory_allocated() / 2**20 if cuda else resident()
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        learning, loss_of, once = prepared(stack, bound, size, variant)
        optimizer = torch.optim.AdamW(learning, lr=RATE, weight_decay=0.0)
        _, *built = timed(once)
        pipe.send((sum(p.numel() for p in learning), *built))

        def step() -> float:
            loss = loss_of()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return float(loss.detach())

        while _told(pipe):
            loss, *spent = timed(step)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
            if cuda:
                peak = torch.cuda.max_memory_allocated() / 2**20
            pipe.send((loss, *spent, peak - loaded))
        os._exit(0)  # nothing is to be merged
