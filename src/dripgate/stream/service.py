"""What a run that lasts does beside deciding: it sends, forgets what is too old, and reports.

What could not be decoded is named when it happens. A clock that jumps is noticed, and the times
of what was read by it are put right. A report is one line of JSON for the journal, and the same
numbers as a file that Prometheus' node_exporter collects, written whole or not at all. Totals are
the store's counters: they go on after a restart. Metrics that cannot be written are told once and
stop nothing.
"""

import math
import re
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dripgate.files import write_whole
from dripgate.store import Store
from dripgate.stream.loop import Summary
from dripgate.text import one_line, plain_json
from dripgate.types import Reason, Sample, Verdict

#: Seconds between two looks for samples that are too old.
EXPIRE = 3600.0
#: Seconds by which the machine's clock jumps, where it does not run fast or slow.
JUMP = 60.0
#: Unreadable samples that are named in a minute; of more the number is told.
NAMED = 20

#: Counters of the store → what the metric is.
_TOTALS = {
    "seen": "Samples that came.",
    "bytes_seen": "Payload bytes that came.",
    "keep": "Samples with the verdict keep.",
    "drop": "Samples with the verdict drop.",
    "quarantine": "Samples with the verdict quarantine.",
    "unreadable": "Samples that could not be decoded.",
    "switched": "Times that another gate took over.",
    "lost": "Samples thrown away before a verdict because the loop was too slow.",
    "sent": "Samples that the receiver has confirmed.",
    "sent_messages": "Messages published, repeats included.",
    "bytes_sent": "Bytes of messages published, repeats included.",
}
_GAUGES = {
    "store_samples": "Samples in the store.",
    "store_bytes": "Bytes of the store on disk.",
    "store_limit_bytes": "Most that the store may take; 0 is no limit.",
    "pending": "Samples in the store that the receiver has not confirmed.",
    "uplink_connected": "1 while the connection to the broker stands.",
    "uplink_waiting": "Samples sent and not confirmed.",
    "uplink_skipped": "Samples that the broker does not take.",
    "release_version": "Version of the release in force; 0 is none.",
    "release_phase": "Of a release under way: 1 shadow, 2 watch; 0 is none.",
    "release_samples": "Samples of that phase so far.",
    "memory_bytes": "Resident memory of the process.",
    "samples_per_second": "Samples per second since the last report.",
    "files_stayed": "Files that were to be removed or moved in this run, and stay.",
    "report_time_seconds": "When this was written.",
}


class Service:
    """Give ``turn`` to the loop as ``on_turn`` and ``verdicts`` as ``on_verdicts``; ``report`` once
    more at the end.

    uplink: an ``Uplink``. more: gives the figures of releases. metrics: file. interval: seconds
    between reports, None is none. log: is given a line per report. max_age: seconds after which
    samples are deleted. by_reading: whether a sample's time is that of its reading. clock: seconds
    that pass. wall: the machine's time.
    """

    def __init__(
        self,
        store: Store,
        *,
        uplink: Any = None,
        more: Callable[[], Mapping[str, float]] = dict,
        metrics: Path | None = None,
        interval: float | None = None,
        max_age: float | None = None,
        by_reading: bool = True,
        log: Callable[[str], object] = print,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._uplink, self._metrics = store, uplink, metrics
        self._more = more
        self._interval, self._max_age, self._log = interval, max_age, log
        self._clock, self._reported, self._expired = clock, clock(), -math.inf
        self._wall, self._ahead = wall, wall() - clock()
        self._since = store.last_key if by_reading else None
        self._jumped = 0
        self._minute, self._named = clock(), 0
        self._seen = 0
        self._trouble = self._no_metrics = ""
        store.on_wait = log
        self._put_right(None)

    def turn(self, summary: Summary) -> None:
        """Do what is due. Raises StoreError."""
        now = self._clock()
        self._look_at_clock(now)
        if self._uplink:
            self._uplink.turn()
            trouble = self._uplink.state.trouble
            if trouble != self._trouble:
                self._log(trouble or "uplink: the connection stands")
            self._trouble = trouble
        if self._max_age is not None and now - self._expired >= EXPIRE:
            self._store.expire(self._max_age)
            self._expired = now
        if self._interval is not None and now - self._reported >= self._interval:
            self.report(summary)

    def verdicts(self, pairs: Sequence[tuple[Sample, Verdict]]) -> None:
        """Name what could not be decoded."""
        for sample, verdict in pairs:
            if verdict.reason is not Reason.UNREADABLE:
                continue
            if self._clock() - self._minute >= 60:
                self._tell_unnamed()
            self._named += 1
            if self._named <= NAMED:
                self._log(f"unreadable {one_line(sample.source)}: {one_line(verdict.detail)}")

    def _tell_unnamed(self) -> None:
        if self._named > NAMED:
            self._log(f"unreadable: {self._named - NAMED:,} more within a minute are not named")
        self._minute, self._named = self._clock(), 0

    def _look_at_clock(self, now: float) -> None:
        """Where the machine's clock was set, correct the times of what was read before."""
        wall = self._wall()
        jump, self._ahead = wall - now - self._ahead, wall - now
        if abs(jump) > JUMP:
            self._jumped = 2  # what is being decided now was read before, and is stored later
            self._log(
                f"the clock was set {'forward' if jump > 0 else 'back'} by {abs(jump):,.0f} s"
            )
        if self._jumped:
            self._jumped -= 1
            self._put_right(self._since)

    def _put_right(self, since: int | None) -> None:
        if corrected := self._store.put_right(self._wall(), since=since):
            self._log(
                f"{corrected:,} samples were read by a wrong clock; their times are put right"
            )

    def report(self, summary: Summary) -> None:
        """Write the line and the file now."""
        if self._uplink:
            self._uplink.flush()
        self._tell_unnamed()
        values = self._values(summary)
        self._reported, self._seen = self._clock(), summary.seen
        line: dict[str, Any] = {"time": time.strftime("%FT%TZ", time.gmtime()), "event": "report"}
        if self._trouble:
            line["trouble"] = self._trouble
        self._log(plain_json(msgspec.json.encode(line | values).decode()))
        if self._metrics:
            try:
                write_whole(self._metrics, render(values))
                self._no_metrics = ""
            except OSError as error:
                cause = error.strerror or "no reason given"
                if cause != self._no_metrics:
                    self._log(f"{one_line(str(self._metrics))}: metrics cannot be written "
                              f"({cause}); check folder and rights")  # fmt: skip
                self._no_metrics = cause

    def _values(self, summary: Summary) -> dict[str, float]:
        counters, passed = self._store.counters, self._clock() - self._reported
        values: dict[str, float] = {name: counters.get(name, 0) for name in _TOTALS}
        values |= {n: v for n, v in counters.items() if n.startswith(("evicted_", "refused"))}
        values |= {
            "store_samples": len(self._store),
            "store_bytes": self._store.disk_bytes,
            "store_limit_bytes": self._store.limit or 0,
            "pending": self._store.backlog,
            "memory_bytes": resident_bytes(),
            "samples_per_second": round((summary.seen - self._seen) / max(passed, 1e-3), 3),
            "files_stayed": summary.stayed,
            "report_time_seconds": round(self._wall(), 3),
        }
        values |= self._more()
        if self._uplink:
            state = self._uplink.state
            values |= {
                "uplink_connected": int(state.connected),
                "uplink_waiting": state.waiting,
                "uplink_skipped": state.skipped,
            }
        return values


def render(values: Mapping[str, float]) -> bytes:
    """Prometheus' text format: evictions and refusals as one metric each, with the reason."""
    lines = []
    for name, value in values.items():
        if name.startswith(("evicted_", "refused")):
            continue
        kind = "counter" if name in _TOTALS else "gauge"
        full = f"dripgate_{name}{'_total' if kind == 'counter' else ''}"
        about = (_TOTALS | _GAUGES)[name]
        lines += [f"# HELP {full} {about}", f"# TYPE {full} {kind}", f"{full} {value}"]
    for kind, about in (("evicted", "deleted"), ("refused", "not taken")):
        reasons = {n: v for n, v in values.items() if n.startswith(kind)}
        if reasons:
            full = f"dripgate_{kind}_total"
            lines += [f"# HELP {full} Samples {about} for want of room or age, by reason."]
            lines += [f"# TYPE {full} counter"]
        for name, value in reasons.items():
            reason = re.sub(r"\W", "_", name.removeprefix(kind), flags=re.ASCII).strip("_")
            reason = reason or "limit"
            lines.append(f'{full}{{reason="{reason}"}} {value}')
    return ("\n".join(lines) + "\n").encode()


def resident_bytes() -> int:
    """Memory of this process that is in RAM; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * resource.getpagesize()
