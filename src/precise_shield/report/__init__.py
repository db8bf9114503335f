"""The report of a run: a page, a model card's text, figures, and the closing table."""

from __future__ import annotations

from precise_shield.report.pages.page import render_html, render_markdown, write_report
from precise_shield.report.pages.terminal import summary_lines, summary_renderables

__all__ = [
    "render_html",
    "render_markdown",
    "summary_lines",
    "summary_renderables",
    "write_report",
]
