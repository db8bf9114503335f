"""Judges that are models: how they are asked, and where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from precise_shield.workflows.base.sections.base import Section

RAW = ("wildguard", "shieldgemma", "harmbench")
"""Formats that are continued as text, where a picture has no place."""


class JudgeModelSection(Section):
    name: str
    """Name by which `evaluate.judges` calls it, and under which its verdicts are stored."""

    format: str
    """How it is asked and read: `precise-shield list` shows the formats."""

    path: str | None = None
    """Local weights: a folder or hub id. Give this or `url`."""

    revision: str | None = None
    """Hub commit of the local weights; of a server, whatever names the weights that it serves, for
    example a commit or a date. Other revisions are other judges."""

    pictures: bool | None = None
    """Show the judge a prompt's picture; null does so where the format was made for it."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the local weights."""

    device: str = "auto"
    """Where the local weights run."""

    chat_template: Path | None = None
    """Jinja chat template of the local weights, where they bring none."""

    trust_remote_code: bool = False
    """Run code that comes with the local weights. Off unless you trust its authors."""

    batch_size: int = Field(default=16, gt=0)
    """Questions a batch, local weights."""

    url: str | None = None
    """OpenAI-compatible server, up to `/v1`. Give this or `path`."""

    model: str | None = None
    """The model's name on the server."""

    key_env: str | None = None
    """Environment variable that holds the server's key; the key itself is never stored."""

    timeout: float = Field(default=120, gt=0)
    """Seconds that one call may take."""

    retries: int = Field(default=6, ge=0)
    """Further attempts after an error that may pass, each waiting about twice as long."""

    parallel: int = Field(default=4, gt=0)
    """Calls at a time."""

    per_minute: float | None = Field(default=None, gt=0)
    """Most calls a minute; null does not hold back."""

    rubric: Path | None = None
    """Format `rubric`: a text with {prompt} and {response} that asks for a last line
    `VERDICT: <label>`; null takes the built-in one."""

    @model_validator(mode="after")
    def _one_place(self) -> JudgeModelSection:
        if (self.path is None) == (self.url is None):
            raise ValueError("give either path (local weights) or url (a server)")
        if self.url is not None and self.model is None:
            raise ValueError("a server needs model, the name it serves the model under")
        if self.pictures and self.format in RAW:
            raise ValueError(f"the format {self.format} is raw text and takes no pictures")
        if self.rubric is not None and self.format != "rubric":
            raise ValueError("rubric belongs to the format rubric")
        return self
