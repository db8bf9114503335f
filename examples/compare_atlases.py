"""Compare the atlases of two models of one architecture: do they keep safety in the same neurons?

python examples/compare_atlases.py A/atlas.safetensors B/atlas.safetensors
"""

import sys

from precise_shield import api
from precise_shield.analyse.atlases import compare


def main(a: str, b: str) -> None:
    """Print every set that both name, with its overlap beside chance; no model is loaded."""
    print(f"{'set':24} {'A':>6} {'B':>6} {'share':>7} {'chance':>7} {'rank r':>7}")
    for row in compare(api.load_atlas(a), api.load_atlas(b)):
        figures = f"{row.share:7.3f} {row.chance:7.3f} {row.rank:7.3f}"  # nan: undefined
        print(f"{row.name:24} {row.a:6} {row.b:6} {figures}")


if __name__ == "__main__":
    main(*sys.argv[1:])
