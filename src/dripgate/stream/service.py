"""What a run that lasts does beside deciding: it sends, forgets what is too old, and reports.

What could not be decoded is named when it happens. A clock that jumps is noticed, and the times
of what was read by it are put right. A report is one line of JSON for the journal, and the same
numbers as a file that Prometheus' node_exporter collects, written whole or not at all, or as a page
of our own (``metrics``). Totals are the store's counters: they go on after a restart. Metrics that
cannot be written are told once and stop nothing.
"""

import math
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dripgate.files import write_whole
from dripgate.store import Store
from dripgate.stream.loop import Summary
from dripgate.stream.metrics import TOTALS, render
from dripgate.text import one_line, plain_json
from dripgate.types import Reason, Sample, Verdict

#: Seconds between two looks for samples that are too old.
EXPIRE = 3600.0
#: Seconds by which the machine's clock jumps, where it does not run fast or slow.
JUMP = 60.0
#: Unreadable samples that are named in a minute; of more the number is told.
NAMED = 20

#: Seconds between two looks for a page of metrics.
LOOK = 5.0


class Service:
    """Give ``turn`` to the loop as ``on_turn`` and ``verdicts`` as ``on_verdicts``; ``report`` once
    more at the end.

    uplink: an ``Uplink``. more: gives the figures of releases. metrics: file. page: a
    ``metrics.Page``. interval: seconds
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
        page: Any = None,
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
        self._page, self._looked = page, -math.inf
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
        elif self._page and now - self._looked >= LOOK:
            self._page.show(self._values(summary))
            self._looked = now

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
        if self._page:
            self._page.show(values)
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
        values: dict[str, float] = {name: counters.get(name, 0) for name in TOTALS}
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


def resident_bytes() -> int:
    """Memory of this process that is in RAM; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * resource.getpagesize()
