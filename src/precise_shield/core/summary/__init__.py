"""`summary.json`: everything a run measured, in one documented file that the report reads.

A share is always a fraction in [0, 1]; what is undefined is null, never 0. `language` and
`modality` are null where a row pools over them.
"""

from __future__ import annotations

from pydantic import Field

from precise_shield.core.summary.audit import Audit, AuditRow
from precise_shield.core.summary.base import (
    Part,
)
from precise_shield.core.summary.causal import (
    Causal,
    Component,
    DosePoint,
    Judged,
    MatrixCell,
    PanelFacts,
    PanelReading,
    Rival,
    Role,
)
from precise_shield.core.summary.confidence import (
    Confidence,
    OwnResponses,
    ScoreAgreement,
    SetConfidence,
    Spread,
)
from precise_shield.core.summary.data import (
    DataNotes,
    Opening,
    OverlapCount,
)
from precise_shield.core.summary.deactivation import LocalAgreement
from precise_shield.core.summary.explained import (
    Explained,
    Profile,
)
from precise_shield.core.summary.factors import FactorRow
from precise_shield.core.summary.gate import (
    GateFacts,
    SearchFacts,
    Standing,
)
from precise_shield.core.summary.headlines import BreakdownRow, HeadlineRow, Headlines
from precise_shield.core.summary.judging import AgreementRow, GradeRow, JudgeFacts, Judging
from precise_shield.core.summary.neurons import (
    CurvePoint,
    NeuronFacts,
    Overlap,
    SetFacts,
    Sharing,
)
from precise_shield.core.summary.provenance import (
    Claim,
    DataFacts,
    ModelFacts,
    StageCost,
)
from precise_shield.core.summary.rates import (
    Condition,
    ConditionKind,
    DifferenceRow,
    GapRow,
    Measure,
    RateRow,
    Sample,
    TrainedOn,
    TransferAxis,
)
from precise_shield.core.summary.receipt import (
    Receipt,
)
from precise_shield.core.summary.transfer import Transfer, TransferCell
from precise_shield.core.summary.utility import (
    ComplianceRow,
    HarnessRow,
    Utility,
    UtilityRow,
)
from precise_shield.core.summary.verification import (
    Readout,
    Verification,
)

__all__ = [
    "SCHEMA_VERSION",
    "AgreementRow",
    "Audit",
    "AuditRow",
    "BreakdownRow",
    "Causal",
    "Claim",
    "ComplianceRow",
    "Component",
    "Condition",
    "ConditionKind",
    "Confidence",
    "CurvePoint",
    "DataFacts",
    "DataNotes",
    "DifferenceRow",
    "DosePoint",
    "Explained",
    "FactorRow",
    "GapRow",
    "GateFacts",
    "GradeRow",
    "HarnessRow",
    "HeadlineRow",
    "Headlines",
    "JudgeFacts",
    "Judged",
    "Judging",
    "LocalAgreement",
    "MatrixCell",
    "Measure",
    "ModelFacts",
    "NeuronFacts",
    "Opening",
    "Overlap",
    "OverlapCount",
    "OwnResponses",
    "PanelFacts",
    "PanelReading",
    "Part",
    "Profile",
    "RateRow",
    "Readout",
    "Receipt",
    "Rival",
    "Role",
    "Sample",
    "ScoreAgreement",
    "SearchFacts",
    "SetConfidence",
    "SetFacts",
    "Sharing",
    "Spread",
    "StageCost",
    "Standing",
    "Summary",
    "TrainedOn",
    "Transfer",
    "TransferAxis",
    "TransferCell",
    "Utility",
    "UtilityRow",
    "Verification",
]

SCHEMA_VERSION = 1


class Summary(Part):
    """A run from end to end."""

    schema_version: int = SCHEMA_VERSION
    name: str
    created: str
    judge: str
    rule: str
    """Which verdict labels count as a hit of the attack."""
    model: ModelFacts
    data: DataFacts
    data_notes: DataNotes = DataNotes()
    conditions: list[Condition]
    rates: list[RateRow]
    differences: list[DifferenceRow]
    gaps: list[GapRow] = Field(default_factory=list)
    judging: Judging | None = None
    headlines: Headlines | None = None
    audit: Audit | None = None
    factors: list[FactorRow] = Field(default_factory=list)
    """Effects with neuron sets as a random factor, where a run has several of a kind."""
    utility: Utility | None = None
    transfer: Transfer | None = None
    """What arms that were trained on a part of the data do in the rest; null without any."""
    neurons: NeuronFacts
    explained: Explained = Field(default_factory=Explained)
    """What goes with the counts, and what the model can tell apart."""
    verification: Verification | None
    receipts: list[Receipt]
    claims: list[Claim]
    costs: list[StageCost]
    samples: list[Sample]
    seeds: dict[str, int]
    versions: dict[str, str]
    warnings: list[str] = Field(default_factory=list)
    gate: list[GateFacts] = Field(default_factory=list)
    """Every exportable alignment against the stated limits, on validation data."""
    search: SearchFacts | None = None
    """Every arm's validation search, where one was configured."""
    config: dict[str, object]
