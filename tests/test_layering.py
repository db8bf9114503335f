"""The architecture table alone may name a module of a model; taps alone may hook one."""

import ast
import re
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[1] / "src" / "precise_shield"
TABLE = SOURCES / "models" / "architecture" / "layouts.py"
TAPS = SOURCES / "models" / "passes" / "taps.py"
PATHS = sorted(SOURCES.rglob("*.py"))
MODULE_NAME = re.compile(
    r"\b(mlp|self_attn|down_proj|up_proj|gate_proj|gate_up_proj|lm_head|fc1|fc2|c_proj|vision_tower)\b"
)


def words(path):
    """All strings of a module except its docstrings, and all attribute names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value
        if isinstance(node, ast.Attribute):
            yield node.attr


def test_the_search_does_find_names_where_they_are_allowed():
    assert any(MODULE_NAME.search(word) for word in words(TABLE))
    assert "register_forward_pre_hook" in set(words(TAPS))


@pytest.mark.parametrize("path", PATHS, ids=lambda p: str(p.relative_to(SOURCES)))
def test_only_the_table_names_modules(path):
    if path != TABLE and path.parent.name != "sandbox":  # it builds and trains its own
        assert not [word for word in words(path) if MODULE_NAME.search(word)]


@pytest.mark.parametrize("path", PATHS, ids=lambda p: str(p.relative_to(SOURCES)))
def test_only_taps_register_hooks(path):
    if path != TAPS:
        assert not [word for word in words(path) if re.match(r"register_\w*hook", word)]


@pytest.mark.parametrize("path", PATHS, ids=lambda p: str(p.relative_to(SOURCES)))
def test_files_and_functions_stay_readable(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name
