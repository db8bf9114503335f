"""Which model, and how it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from precise_shield.workflows.base.sections.base import Section


class ModelSection(Section):
    path: str
    """Hub id, local folder, .gguf file, or the embedded `sandbox` and `sandbox-negative`."""

    revision: str | None = None
    """Hub commit to pin."""

    gguf_file: str | None = None
    """Name of a GGUF file inside `path`."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the weights; `auto` takes the checkpoint's own."""

    device: str = "auto"
    """`auto` takes CUDA, then MPS, then the CPU."""

    shard: Literal["none", "fsdp"] = "none"
    """`fsdp` spreads every block of the language model over the processes of a `torchrun`, for
    models larger than one GPU; `none` gives each process the whole model."""

    device_map: Literal["auto", "balanced", "sequential"] | dict[str, int | str] | None = None
    """Spread the model over the GPUs, the main memory and the disk that one process sees
    (accelerate's device maps); null puts it on `device`. On disk it can be read, not trained."""

    max_memory: dict[int | str, int | str] | None = None
    """Most memory per device for `device_map: auto`, e.g. `{0: 20GiB, cpu: 60GiB}`."""

    quantise: Literal["none", "4bit", "8bit"] = "none"
    """Hold the projections in 4 bits (NF4) or 8 (LLM.int8()) through bitsandbytes. What is found
    and trained belongs to that base: measured in memory, and exported as a PEFT adapter."""

    threads: int | None = Field(default=None, gt=0)
    """CPU threads; null leaves torch's choice. One is best for tiny models: more wait for each
    other wherever another process has a core."""

    trust_remote_code: bool = False
    """Run code that comes with the checkpoint. Off unless you trust its authors."""

    chat_template: Path | None = None
    """File with a Jinja chat template, for models that come without one."""
