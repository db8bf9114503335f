"""Evaluate a model behind an OpenAI-compatible server (vLLM, SGLang, any): no weights here.

python examples/through_a_server.py MANIFEST URL MODEL OUT [KEY_ENV]

What `precise-shield served` does, from Python: the test prompts, pictures included, go to the
server; answers, verdicts, report.html and summary.json are kept in the folder OUT. URL ends before
/chat/completions; the key, if any, is read from the variable KEY_ENV and stored nowhere.
"""

import json
import sys

from precise_shield import api


def main(manifest: str, url: str, model: str, out: str, key_env: str | None = None) -> None:
    """Ask, judge, report; then print every rate with its interval, n and unscored count."""
    served = {"name": "served", "url": url, "model": model, "key_env": key_env}
    config = {
        "name": "through-a-server",
        "model": {"path": model},  # named, never loaded
        "data": {"sources": [{"source": "manifest", "path": manifest}]},
        "evaluate": {"judge": "refusal_phrases", "servers": [served]},
    }
    run = api.open_run(api.parse_config(json.dumps(config)), out)
    summary = api.served(run)
    for row in summary.rates:
        place = "all" if row.language is None else f"{row.language}/{row.modality or 'all'}"
        value = "undefined" if row.value is None else f"{row.value:.1%}"
        sure = "" if row.low is None else f" [{row.low:.1%}, {row.high:.1%}]"
        print(f"{row.measure:20} {place:16} {value}{sure} n={row.n} unscored={row.unscored}")
    print(*summary.warnings, f"report: {run.folder / 'report.html'}", sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
