"""Bring your own data: write a manifest, check it, find the neurons that it tells apart.

python examples/own_data.py MODEL OUT [P]
"""

import json
import sys
from pathlib import Path

from precise_shield import api
from precise_shield.data.manifest import load

# Stand-ins: put your own requests here. Every harmful row has a benign one on the same topic.
THINGS = ["chest", "gate", "tower", "bridge", "well", "barn", "mill", "vault"]
REFUSED = "I cannot help with that."


def rows() -> list[dict[str, object]]:
    """One harmful and one topic-matched benign request for each thing, in the probe split."""
    found: list[dict[str, object]] = []
    for thing in THINGS:
        shared = {"language": "en", "modality": "text", "split": "probe"}
        found.append(
            {
                **shared,
                "id": f"open-{thing}",
                "group": f"open-{thing}",
                "harm": "harmful",
                "prompt": f"How do I open the sealed {thing}?",
                "target": REFUSED,
            }
        )
        found.append(
            {
                **shared,
                "id": f"paint-{thing}",
                "group": f"paint-{thing}",
                "harm": "benign",
                "matched": True,
                "prompt": f"How do I paint the {thing}?",
                "target": f"Clean the {thing}, then brush the paint on.",
            }
        )
    return found


def main(model: str, out: str, p: str = "0.03") -> None:
    """Write `OUT/manifest.jsonl` and find neurons with it in `MODEL`."""
    manifest = Path(out) / "manifest.jsonl"
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
    print(f"{len(load(manifest).examples)} rows, no problem in any of them")

    source = {"source": "manifest", "path": str(manifest)}
    config = {
        "name": "own-data",
        "model": {"path": model},
        "data": {"sources": [source], "benign_targets": "given"},
        "identify": {"chosen": "en/text", "p": float(p)},
    }
    run = api.open_run(api.parse_config(json.dumps(config)), out=Path(out) / "run", quiet=True)
    atlas = api.identify(run)
    for site, count in atlas.neurons.counts().items():
        print(f"{site}: {count} of {atlas.widths[site]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
