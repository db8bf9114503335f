"""Row counts of the public data sets under a folder: `python benchmarks/loaders.py FOLDER`.

A subfolder that has the name of a source (or it with `_lite`) is read by it. Prints counts only,
never a text. Bad rows are left out and counted.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

from precise_shield.core.errors import UserError
from precise_shield.data.overlap import counted, find_overlaps, sentence
from precise_shield.data.sources import SOURCES, SourceOptions, load_source


def main(root: Path) -> None:
    every = []
    for name in SOURCES:
        folder = next(
            (root / each for each in (name, f"{name}_lite") if (root / each).exists()), None
        )
        if folder is None:
            continue
        start = time.perf_counter()
        try:
            loaded = load_source(name, SourceOptions(path=folder, on_bad_row="skip"))
        except UserError as error:
            print(f"{name}: {error}")
            continue
        seconds = time.perf_counter() - start
        rows = loaded.examples
        every += rows
        cells = Counter(f"{row.split}/{row.harm}/{row.modality}" for row in rows)
        print(
            f"{name}: {len(rows)} rows in {len({row.language for row in rows})} languages,"
            f" {len({row.group for row in rows})} groups, {loaded.dropped_rows} dropped,"
            f" {seconds:.2f} s; " + ", ".join(f"{key} {n}" for key, n in sorted(cells.items()))
        )
    start = time.perf_counter()
    print(f"\nrequests in two splits among all {len(every)} rows:")
    for count in counted(find_overlaps(every), every):
        print("  " + sentence(count).split(", e.g.")[0])
    print(f"  found in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
