"""What the README says can be typed, can be typed."""

import re
from pathlib import Path

from precise_shield.cli import app

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_quickstart_runs_as_printed(config_text, tmp_path, monkeypatch, capsys):
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "config.yaml").write_text(config_text)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(block, scope)
    assert "neurons in all" in capsys.readouterr().out
    assert len(scope["arms"]) == 4  # type: ignore[arg-type]  # two trainings, a control each


def test_every_command_it_names_exists():
    named = {match for match in re.findall(r"precise-shield (\w+)", README) if match != "list"}
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    assert named <= known
    assert "demo" in named


def test_its_links_lead_somewhere():
    root = Path(__file__).parents[2]
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert not [link for link in links if not (root / link).is_file()]
