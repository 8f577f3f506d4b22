"""Devices one by one and together: estimates, figures by gate, and whom to look at first."""

from collections import defaultdict

import msgspec

from dripgate.data.layout import label_of
from dripgate.errors import MissingExtra, StoreError
from dripgate.fleet.scenes import Scenes, scenes
from dripgate.fleet.together import together
from dripgate.policy import Estimates, Interval, Seen, Stream, estimate
from dripgate.progress import Progress
from dripgate.store import BROKEN, Browsing
from dripgate.stream.account import MOST, STRANGE
from dripgate.stream.figures import Figures
from dripgate.stream.report import Report


class DeviceAccount(msgspec.Struct, frozen=True, kw_only=True):
    """One device. gate: id of the one in force; release: its version, 0 where it is none. classes:
    that gate's. time: of its last report. figures: by gate id. estimates: None where chance drew no
    labelled sample.
    """

    name: str
    gate: str
    release: int
    classes: tuple[str, ...]
    time: float
    figures: dict[str, Figures]
    estimates: Estimates | None

    @property
    def seen(self) -> int:
        """Samples that passed."""
        return sum(one.seen for one in self.figures.values())

    @property
    def mix(self) -> dict[str, Interval]:
        """Share of each class of the stream, by its name; empty without estimates."""
        found = self.estimates.classes if self.estimates else ()
        return dict(zip(self.classes, found, strict=False))

    @property
    def strange(self) -> float:
        """Share of what came that could not be decoded, or was of alien quality."""
        odd = sum(one.unreadable + one.quarantine for one in self.figures.values())
        return odd / max(self.seen, 1)


class GateAccount(msgspec.Struct, frozen=True, kw_only=True):
    """One gate, by id, on all devices. release: as of ``DeviceAccount``. devices: on which it
    decided; of those ``running`` have it in force. Counts are of samples, as in ``Figures``.
    """

    gate: str
    release: int
    devices: int
    running: int
    seen: int
    keep: int
    quarantine: int
    unreadable: int


class FleetAccount(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet. devices: the one that should be looked at first comes first. gates: those that
    decided, by id, the one that saw most first. accuracy, classes,
    dropped_accuracy: of all streams, with what devices differ by in the interval; None where no
    device has an estimate. silent: devices that sent samples and no report. scenes: what they have
    in common; None where that is not known, and ``apart`` then says why.
    """

    devices: list[DeviceAccount]
    gates: list[GateAccount]
    accuracy: Interval | None
    dropped_accuracy: Interval | None
    classes: dict[str, Interval]
    silent: list[str]
    scenes: Scenes | None
    apart: str


def fleet_account(store: Browsing, *, told: Progress = lambda _: None) -> FleetAccount | None:
    """The account of a store that ``receive`` filled; None where no device reported.

    told: how many samples are compared with those of other devices. Raises StoreError.
    """
    last = store.devices()
    reports = {name: _report(store, name, said) for name, (_, said) in last.items()}
    if not reports:
        return None
    seen, silent = _labelled(store, reports)
    devices = [
        DeviceAccount(
            name=name, gate=one.gate, release=one.versions.get(one.gate, 0), classes=one.classes,
            time=last[name][0], figures=one.figures,
            estimates=estimate(seen.get(name, []), _stream(one), len(one.classes)),
        )
        for name, one in reports.items()
    ]  # fmt: skip
    known = [(one, one.estimates) for one in devices if one.estimates]
    names = {name for one, _ in known for name in one.mix}
    mix = {}
    for name in sorted(names):
        share = together([(one.seen, one.mix[name]) for one, _ in known if name in one.mix])
        if share:
            mix[name] = share
    common, apart = _common(store, reports, told)
    return FleetAccount(
        devices=sorted(devices, key=_urgency),
        gates=_gates(reports),
        accuracy=together([(one.seen, found.accuracy) for one, found in known]),
        dropped_accuracy=together([(one.seen, found.dropped_accuracy) for one, found in known]),
        classes=mix,
        silent=silent,
        scenes=common,
        apart=apart,
    )


def _common(
    store: Browsing, reports: dict[str, Report], told: Progress
) -> tuple[Scenes | None, str]:
    try:
        found = scenes(store, reports, told=told)
    except MissingExtra as error:
        return None, str(error)
    return found, "" if found else "no sample came with its embedding; send with --send-embeddings"


def _gates(reports: dict[str, Report]) -> list[GateAccount]:
    found = []
    for gate in {gate for one in reports.values() for gate in (one.gate, *one.figures)}:
        parts = [one.figures[gate] for one in reports.values() if gate in one.figures]
        found.append(GateAccount(
            gate=gate, release=max(one.versions.get(gate, 0) for one in reports.values()),
            devices=len(parts), running=sum(one.gate == gate for one in reports.values()),
            seen=sum(one.seen for one in parts), keep=sum(one.keep for one in parts),
            quarantine=sum(one.quarantine for one in parts),
            unreadable=sum(one.unreadable for one in parts),
        ))  # fmt: skip
    return sorted(found, key=lambda one: (-one.seen, one.gate))


def _urgency(device: DeviceAccount) -> tuple[float, float]:
    """First the one whose accuracy is surely lowest, then the one with the strangest input."""
    surely = device.estimates.accuracy.high if device.estimates else 1.0
    return surely, -device.strange


def _report(store: Browsing, name: str, said: str) -> Report:
    try:
        return msgspec.json.decode(said, type=Report)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(
            f"{store.path}: the report of {name} is no dripgate's ({error}); salvage the store: "
            f"dripgate inspect {store.path} --salvage OUT"
        ) from None


def _stream(report: Report) -> Stream:
    parts = [one.stream for one in report.figures.values()]
    return Stream(
        certain=sum(one.certain for one in parts), chance=sum(one.chance for one in parts),
        blind=sum(one.blind for one in parts),
    )  # fmt: skip


def _labelled(
    store: Browsing, reports: dict[str, Report]
) -> tuple[dict[str, list[Seen]], list[str]]:
    """By device, labelled samples as chance drew them: of each stratum up to the first without a
    label (``stream.account.measured``).
    """
    places = {n: {c: i for i, c in enumerate(r.classes)} for n, r in reports.items()}
    found: dict[str, list[Seen]] = defaultdict(list)
    silent = set[str]()
    for chance in (True, False):
        counts, over = dict.fromkeys(reports, 0), set[str]()
        for one in store.drawn(chance=chance):
            device, _, source = one.source.partition("/")
            if device not in reports:
                silent.add(device)
                continue
            if device in over or counts[device] == MOST:
                continue
            counts[device] += 1
            label = label_of(one.label, source, places[device])
            if label is None:
                over.add(device)
            elif label != BROKEN:
                place = places[device].get(label, STRANGE)
                found[device].append(Seen(place, one.predicted, one.propensity))
    return found, sorted(silent)
