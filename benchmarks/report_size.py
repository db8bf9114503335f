"""Time and size of a report: ten languages, five kinds of request, 500 requests in each.

python benchmarks/report_size.py [--items 500] [--samples 24] [--answer 400]

The five kinds are text, text-dominant, and image-dominant as picture, typography and mixed; the
last three are forms of one modality, as Lingua-SafetyBench has them. Every rate is counted from
fabricated answers in several conditions. `--samples` puts that many requests with all their answers
of `--answer` characters into the summary; whatever there is, the page shows what fits its budget.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from precise_shield.core.rates import Rate
from precise_shield.core.summary import Sample, Summary
from precise_shield.core.summary.headlines import BreakdownRow, Headlines
from precise_shield.report.pages.page import write_report
from report.explained_fixture import explained_summary
from report.fixture import CONDITIONS, LANGUAGES, MEASURES, realistic

FORMS = ("visual", "typography", "mixed")


def fabricated(items: int, samples: int, answer: int) -> Summary:
    """A summary of a run of this size."""
    dice = random.Random(0)
    whole, seen = realistic(n=items), explained_summary()
    breakdown = [
        BreakdownRow(condition=c.name, measure=measure, by="form", key=form, least=None,
                     most=None, **Rate(dice.randrange(items), items, 0).to_json())
        for c in CONDITIONS for measure in MEASURES for form in FORMS
    ]  # fmt: skip
    words = ["seven", "castles", "<b>", "مرحبا", "屋根", "&", "answers"]
    said = [
        Sample(
            example=f"row-{k}", language=LANGUAGES[k % 10], modality="text", harm="harmful",
            prompt=f"request {k}",
            responses={c.name: " ".join(dice.choices(words, k=answer // 6)) for c in CONDITIONS},
            labels={c.name: "unsafe" for c in CONDITIONS},
        )
        for k in range(samples)
    ]  # fmt: skip
    neurons = whole.neurons.model_copy(update={"profile": seen.neurons.profile})
    more = {"samples": said, "neurons": neurons, "explained": seen.explained}
    return whole.model_copy(update={**more, "headlines": Headlines(breakdown=breakdown)})


def main() -> None:
    """Write one report with the samples of a run, and one with every answer as a sample."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--answer", type=int, default=400)
    given = parser.parse_args()
    answers = 10 * 5 * given.items * len(CONDITIONS)
    print(f"10 languages x 5 kinds x {given.items} requests: {answers:,} answers")
    for samples in (given.samples, 10 * 5 * given.items // 10):
        summary = fabricated(given.items, samples, given.answer)
        with tempfile.TemporaryDirectory() as folder:
            wall, cpu = time.perf_counter(), time.process_time()
            written = write_report(summary, Path(folder))
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            page = written["report.html"].stat().st_size / 1e6
            rest = sum(path.stat().st_size for path in written.values()) / 1e6 - page
        print(
            f"{samples} samples: {cpu:.2f} s CPU ({wall:.2f} s), report.html {page:.2f} MB,"
            f" Markdown and SVGs {rest:.2f} MB"
        )
        assert page < 2, "the page is to stay below 2 MB"


if __name__ == "__main__":
    main()
