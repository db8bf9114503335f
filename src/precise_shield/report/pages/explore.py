"""Pages to browse neurons by: which sets hold them, how surely, what they write and answer to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from precise_shield.core.atlas import Atlas
from precise_shield.core.sites import Site
from precise_shield.core.summary import Summary
from precise_shield.core.summary.dynamics import WrittenNeuron
from precise_shield.report.pages.environment import environment

Inclusion = Mapping[str, Mapping[str, Sequence[float]]]
"""Set, site, and a share of bootstrap draws for each of its units, in increasing order."""


@dataclass(frozen=True)
class Member:
    """A neuron in one set."""

    name: str
    cell: bool
    """A set of one language and modality; the others are made of these."""

    inclusion: float | None
    """Share of bootstrap draws that choose it; None where not measured."""


@dataclass(frozen=True)
class Row:
    """One neuron of a site, for its table."""

    unit: int
    cells: tuple[str, ...]
    chosen: bool
    inclusion: float | None
    """Highest over its cells."""
    read: bool
    """Whether the run read what it writes."""


@dataclass(frozen=True)
class Found:
    """A run's sets and all that was measured of single neurons."""

    summary: Summary
    atlas: Atlas
    inclusion: Inclusion
    """Empty where the run drew no bootstrap."""

    @property
    def cells(self) -> list[str]:
        """Names of the sets of one language and modality."""
        return [f"{language}/{modality}" for language, modality in self.atlas.places]

    @property
    def read(self) -> Mapping[tuple[str, int], WrittenNeuron]:
        """What was read of single neurons, by site and unit."""
        writes = self.summary.explained.writes
        return {} if writes is None else {(one.site, one.unit): one for one in writes.neurons}

    def members(self, site: Site, unit: int) -> list[Member]:
        """Every set that holds a neuron; the cells first."""
        cells = set(self.cells)
        found = [
            Member(name, name in cells, self._share(name, site, unit))
            for name, neurons in self.atlas.sets.items()
            if unit in neurons.units.get(site, ())
        ]
        return sorted(found, key=lambda one: not one.cell)

    def rows(self, site: Site) -> list[Row]:
        """Every neuron of a site that some cell or the chosen set holds, most shared first."""
        cells: dict[int, list[str]] = {u: [] for u in self.atlas.neurons.units.get(site, ())}
        chosen = set(cells)
        for name in self.cells:
            for unit in self.atlas.sets[name].units.get(site, ()):
                cells.setdefault(unit, []).append(name)
        read = self.read
        rows = []
        for unit, names in cells.items():
            shares = [s for name in names if (s := self._share(name, site, unit)) is not None]
            best = max(shares, default=None)
            seen = (str(site), unit) in read
            rows.append(Row(unit, tuple(names), unit in chosen, best, seen))
        return sorted(rows, key=lambda row: (-len(row.cells), row.unit))

    def counts(self, site: Site) -> list[int]:
        """How many neurons of a site each cell has."""
        return [len(self.atlas.sets[name].units.get(site, ())) for name in self.cells]

    def _share(self, name: str, site: Site, unit: int) -> float | None:
        shares = self.inclusion.get(name, {}).get(str(site))
        if shares is None:
            return None
        return shares[self.atlas.sets[name].units[site].index(unit)]


def front_page(found: Found) -> str:
    """Every site beside the cells: how many neurons each cell has there."""
    rows = [(site, width, found.counts(site)) for site, width in sorted(found.atlas.widths.items())]
    read = sorted(found.read.values(), key=lambda one: -one.strength)
    return _rendered("front", found, rows=rows, read=read)


def site_page(found: Found, site: Site) -> str:
    """Every neuron of a site that some cell holds."""
    return _rendered("site", found, site=site, rows=found.rows(site))


def neuron_page(found: Found, site: Site, unit: int) -> str:
    """One neuron: its sets, its score in each cell, what it writes, which prompts drive it."""
    scores = [
        (name, float(sites[site][unit]))
        for name, sites in found.atlas.scores.items()
        if site in sites
    ]
    return _rendered(
        "neuron",
        found,
        site=site,
        unit=unit,
        members=found.members(site, unit),
        scores=scores,
        read=found.read.get((str(site), unit)),
        writes=found.summary.explained.writes,
    )


def refusal_page(sentence: str) -> str:
    """A page that says in one sentence why there is nothing to show."""
    return environment().get_template("explore.html.j2").render(kind="refusal", sentence=sentence)


def style_sheet() -> bytes:
    """The one style sheet of these pages."""
    return (resources.files("precise_shield.report") / "templates" / "explore.css").read_bytes()


def _rendered(kind: str, found: Found, **more: object) -> str:
    sites = sorted(found.atlas.widths)
    return (
        environment()
        .get_template("explore.html.j2")
        .render(kind=kind, found=found, summary=found.summary, sites=sites, **more)
    )
