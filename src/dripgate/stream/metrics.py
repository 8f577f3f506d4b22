"""The numbers of a run for Prometheus: a file for node_exporter, or a page on loopback."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dripgate.errors import UserError

#: Counters of the store → what the metric is.
TOTALS = {
    "seen": "Samples that came.",
    "bytes_seen": "Payload bytes that came.",
    "keep": "Samples with the verdict keep.",
    "drop": "Samples with the verdict drop.",
    "quarantine": "Samples with the verdict quarantine.",
    "unreadable": "Samples that could not be decoded.",
    "switched": "Times that another gate took over.",
    "lost": "Samples thrown away before a verdict because the loop was too slow.",
    "gaps": "Times that a camera or microphone was away, or lost something before it was read.",
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
#: What is counted by reason → the beginning of the counters' names.
_REASONS = {"evicted": "deleted", "refused": "not taken"}


class Values(Collector):
    """What was last looked up, as metrics. A scrape reads this, never the store: that belongs to
    the thread of the loop.
    """

    def __init__(self, values: Mapping[str, float] | None = None) -> None:
        self.values: Mapping[str, float] = values or {}

    def collect(self) -> Iterable[Metric]:
        """Counters and gauges; evictions and refusals as one counter each, with the reason."""
        values = self.values
        for name, value in values.items():
            if name in TOTALS:
                yield CounterMetricFamily(f"dripgate_{name}", TOTALS[name], value)
            elif name in _GAUGES:
                yield GaugeMetricFamily(f"dripgate_{name}", _GAUGES[name], value)
        for kind, about in _REASONS.items():
            reasons = {name: n for name, n in values.items() if name.startswith(kind)}
            family = CounterMetricFamily(
                f"dripgate_{kind}", f"Samples {about} for want of room or age, by reason.",
                labels=["reason"],
            )  # fmt: skip
            for name, value in reasons.items():
                reason = re.sub(r"\W", "_", name.removeprefix(kind), flags=re.ASCII).strip("_")
                family.add_metric([reason or "limit"], value)
            if reasons:
                yield family


def render(values: Mapping[str, float]) -> bytes:
    """Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(Values(values))
    return generate_latest(registry)


class Listen(NamedTuple):
    """Where the page is; port 0 is any that is free."""

    host: str
    port: int


def parse_listen(text: str) -> Listen:
    """PORT, on loopback, or ADDRESS:PORT. Raises UserError."""
    host, colon, port = text.rpartition(":")
    if not (port.isdecimal() and int(port) <= 0xFFFF) or (colon and not host):
        raise UserError(
            f"--metrics-listen is '{text}', expected a port such as 9101, for this machine alone, "
            "or ADDRESS:PORT; 0.0.0.0:9101 is for all machines"
        )
    return Listen(host.strip("[]") or "127.0.0.1", int(port))


class Page:
    """Answers Prometheus over HTTP with what it was last shown, in threads of its own.

    Raises UserError where nothing can listen there.
    """

    def __init__(self, listen: Listen) -> None:
        self._values, registry = Values(), CollectorRegistry()
        registry.register(self._values)
        try:
            self._server, self._thread = start_http_server(listen.port, listen.host, registry)
        except OSError as error:
            raise UserError(
                f"--metrics-listen {listen.host}:{listen.port}: nothing can listen there "
                f"({error.strerror or error}); choose another port or address"
            ) from None
        host = f"[{listen.host}]" if ":" in listen.host else listen.host
        self.address = f"http://{host}:{self._server.server_port}/metrics"

    def show(self, values: Mapping[str, float]) -> None:
        """From now on answer with these."""
        self._values.values = dict(values)

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
