"""Models that are served elsewhere, and answer the test prompts over HTTP."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from precise_shield.workflows.base.sections.base import Section


class ServerSection(Section):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the condition, for example `exported`."""

    url: str
    """OpenAI-compatible server, up to `/v1`."""

    model: str
    """The model's name on the server."""

    revision: str | None = None
    """Whatever names the weights that are served, for example a commit or the fingerprint of an
    export; answers of another revision are asked for anew."""

    key_env: str | None = None
    """Environment variable that holds the server's key; the key itself is never stored."""

    timeout: float = Field(default=120, gt=0)
    """Seconds that one call may take."""

    retries: int = Field(default=6, ge=0)
    """Further attempts after an error that may pass, each waiting about twice as long."""

    parallel: int = Field(default=16, gt=0)
    """Calls at a time."""

    per_minute: float | None = Field(default=None, gt=0)
    """Most calls a minute; null does not hold back."""

    template: dict[str, Any] = {"enable_thinking": False, "date_string": "01 Jan 2026"}
    """Variables of the chat template, the same as a local model gets. vLLM and SGLang take them;
    `{}` sends none, for servers that refuse unknown fields."""

    extra: dict[str, Any] = {}
    """Further fields of every request, as the server documents them."""
