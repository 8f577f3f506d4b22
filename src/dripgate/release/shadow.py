"""Two gates over the same samples, and whether the new one holds the release's limits."""

import numpy as np

from dripgate.gate_info import GateInfo
from dripgate.policy import ALARM, cells_of, compare
from dripgate.release.manifest import Limits
from dripgate.release.state import Shadow
from dripgate.types import Decision, Reason, Verdict


def compared(
    shadow: Shadow,
    gates: tuple[GateInfo, GateInfo],
    verdicts: tuple[list[Verdict], list[Verdict]],
    seconds: tuple[float, float],
) -> Shadow:
    """With one more batch, as both gates alone decided about it."""
    names = [info.classes for info in gates]
    rows = [
        pair for pair in zip(*verdicts, strict=True)
        if Reason.UNREADABLE not in (pair[0].reason, pair[1].reason)
    ]  # fmt: skip
    agreed = sum(bool(names[0][a.predicted] == names[1][b.predicted]) for a, b in rows)
    kept: list[int] = []
    outside: list[int] = []
    quality: list[list[int]] = []
    for side in (0, 1):
        ours = [pair[side] for pair in rows]
        kept.append(shadow.kept[side] + sum(v.decision is Decision.KEEP for v in ours))
        outside.append(shadow.outside[side] + sum(v.reason is Reason.QUALITY for v in ours))
        quality.append(_counted(shadow.quality[side], gates[side], [v.quality for v in ours]))
    return Shadow(
        samples=shadow.samples + len(rows),
        agreed=shadow.agreed + agreed,
        kept=(kept[0], kept[1]),
        outside=(outside[0], outside[1]),
        seconds=(shadow.seconds[0] + seconds[0], shadow.seconds[1] + seconds[1]),
        quality=(quality[0], quality[1]),
    )


def _counted(before: list[int], info: GateInfo, values: list[float]) -> list[int]:
    cells = cells_of(info.calibration).get("quality")
    if cells is None:
        return []
    found = np.bincount(cells.find(np.array(values)), minlength=len(cells.counts))
    return [a + int(b) for a, b in zip(before or [0] * len(found), found, strict=True)]


def drifts(shadow: Shadow, gates: tuple[GateInfo, GateInfo]) -> list[tuple[float, float]]:
    """(statistic, population stability index) of the qualities, of each gate against its own
    calibration.
    """
    found = []
    for info, counts in zip(gates, shadow.quality, strict=True):
        cells = cells_of(info.calibration).get("quality")
        enough = cells is not None and len(counts) == len(cells.counts) and any(counts)
        found.append(compare(np.array(counts), cells.counts) if cells and enough else (0.0, 0.0))
    return found


def broken(shadow: Shadow, gates: tuple[GateInfo, GateInfo], limits: Limits) -> list[str]:
    """The limits that a shadow does not hold, a phrase each."""
    n = shadow.samples
    if not n:
        return ["no sample could be decided by both gates"]
    found = []
    if (share := shadow.agreed / n) < limits.agreement:
        found.append(f"agrees on {share:.1%} of {n:,} samples, not {limits.agreement:.1%}")
    kept = [count / n for count in shadow.kept]
    if abs(kept[1] - kept[0]) > limits.kept:
        found.append(f"keeps {kept[1]:.1%}, the gate in force {kept[0]:.1%}")
    outside = [count / n for count in shadow.outside]
    if outside[1] - outside[0] > limits.outside:
        found.append(f"finds {outside[1]:.1%} of alien quality, the gate in force {outside[0]:.1%}")
    if shadow.seconds[1] > limits.slower * shadow.seconds[0]:
        times = shadow.seconds[1] / max(shadow.seconds[0], 1e-9)
        found.append(f"takes {times:.1f} times as long, {limits.slower:g} are allowed")
    (_, before), (statistic, psi) = drifts(shadow, gates)
    if statistic > ALARM and psi > max(limits.psi, before):
        found.append(
            f"qualities are not those of its calibration (stability index {psi:.2f}, "
            f"{limits.psi:g} is allowed)"
        )
    return found


def told(shadow: Shadow) -> str:
    """A shadow's figures, on a line."""
    n = max(shadow.samples, 1)
    kept, outside = ([count / n for count in pair] for pair in (shadow.kept, shadow.outside))
    return (
        f"{shadow.samples:,} samples: same class {shadow.agreed / n:.1%}, kept {kept[0]:.1%} → "
        f"{kept[1]:.1%}, alien {outside[0]:.1%} → {outside[1]:.1%}, "
        f"{1e3 * shadow.seconds[0] / n:.2f} → {1e3 * shadow.seconds[1] / n:.2f} ms"
    )
