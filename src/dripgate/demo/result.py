"""What a run over the stream showed, and the report made of it."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from dripgate.data import class_of
from dripgate.errors import UserError, require
from dripgate.gate import Gate
from dripgate.report import (
    ClassShare,
    Example,
    Outcome,
    Report,
    StreamHistogram,
    Unreadable,
)
from dripgate.stream.account import Account
from dripgate.stream.loop import Summary
from dripgate.types import Array, Decision, Reason, Sample, Verdict

EXAMPLES = 12


@dataclass
class Noted:
    """What is remembered of each sample for the report."""

    scores: list[float] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    examples: dict[Decision, list[tuple[Sample, Verdict]]] = field(default_factory=dict)

    def note(self, pairs: list[tuple[Sample, Verdict]]) -> None:
        """Keep scores of all samples, and the first few samples of each decision."""
        for sample, verdict in pairs:
            self.scores.append(verdict.score)
            self.decisions.append(verdict.decision)
            shown = self.examples.setdefault(verdict.decision, [])
            if len(shown) < EXAMPLES and verdict.reason is not Reason.UNREADABLE:
                shown.append((sample, verdict))


def ready(out: Path) -> None:
    """Make the folder; before long work: what would only be missed at its end. Raises UserError."""
    require("the demo's report", "report", "jinja2", "matplotlib")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be made a folder ({error.strerror})") from None


class Streamed(NamedTuple):
    """What the run over the stream showed."""

    summary: Summary
    account: Account
    noted: Noted


def report_of(
    data: str, seed: int, command: str, outcome: Outcome, gate: Gate, streamed: Streamed
) -> Report:
    """Everything on the page; ``command`` is what it says it was made by."""
    summary, found, noted = streamed
    examples = [
        _example(gate, sample, verdict)
        for decision in Decision
        for sample, verdict in noted.examples.get(decision, [])
    ]
    reasons: Counter[tuple[Decision, Reason]] = Counter()
    for key, count in summary.reasons.items():
        decision, reason = key.split(": ")
        reasons[Decision(decision), Reason(reason)] = count
    return Report(
        title=f"dripgate on {data}",
        data=data,
        seed=seed,
        command=command or f"dripgate demo --data {data} --seed {seed}",
        outcome=outcome,
        gate=gate.info,
        scores=StreamHistogram.of(noted.scores, noted.decisions),
        classes=[ClassShare(c.name, c.seen, c.kept, c.quarantined) for c in summary.classes],
        examples=examples,
        reasons=reasons,
        estimates=found.estimates,
        unreadable=[Unreadable(u.source, u.cause) for u in summary.unreadable_named],
    )


def _example(gate: Gate, sample: Sample, verdict: Verdict) -> Example:
    array: Array = gate.decode(sample)
    return Example(
        source=sample.source,
        verdict=verdict,
        array=array,
        heatmap=gate(array[None]).heatmap[0],
        label=class_of(sample.source, gate.info.classes),
    )
