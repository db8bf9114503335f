"""The command line: parse, call one workflow, print what it returns.

Heavy imports stay inside the commands, so that `--help` answers at once.
"""

# each registers its commands
from precise_shield.cli import (
    align,
    atlas,
    chat,
    data,
    explore,
    handing,
    hub,
    judging,
    results,
    served,
    stages,
    tools,
)
from precise_shield.cli.app import app, main

__all__ = [
    "align",
    "app",
    "atlas",
    "chat",
    "data",
    "explore",
    "handing",
    "hub",
    "judging",
    "main",
    "results",
    "served",
    "stages",
    "tools",
]
