"""A release on a device, as ``run`` carries it out: shadow, switch, watch; kept, or rolled back.

Each step is one transaction of the store, together with the samples it rests on. So a kill leaves
the step done or not begun, and the next run goes on from there.
"""

import time
from collections.abc import Callable, Mapping

import msgspec
import numpy as np

from dripgate.errors import GateError, ReleaseError
from dripgate.gate import Gate
from dripgate.policy import DriftAlarm, estimate
from dripgate.release import shadow as shadows
from dripgate.release.manifest import Manifest
from dripgate.release.state import (
    Releases,
    Request,
    Trial,
    answered,
    asked,
    candidate_file,
    noted_releases,
    request_file,
)
from dripgate.store import Event, Store
from dripgate.stream.account import measured
from dripgate.stream.caution import died
from dripgate.stream.figures import noted_figures
from dripgate.stream.force import FORCE, Batch, InForce, Observer, noted_force, unfit
from dripgate.types import Reason

#: Samples between two looks at what the labels say.
_LOOK = 256


def count_death(store: Store) -> None:
    """Note where the last run died within a trial; roll back where it died too often.

    Called before any gate is loaded: one that kills whoever loads it must not do so for ever.
    """
    meta = store.meta
    releases = noted_releases(meta)
    trial = releases.trial
    if trial is None or not died(meta):
        return
    trial = msgspec.structs.replace(trial, deaths=trial.deaths + 1)
    limit = trial.manifest.limits.crashes
    if trial.deaths <= limit:
        store.put_many([], meta=msgspec.structs.replace(releases, trial=trial).note())
        return
    why = f"the process died {trial.deaths} times in the {trial.phase}, {limit} are allowed"
    notes, what = _ended(releases, trial, why), _FAILED[trial.phase]
    force = noted_force(meta)
    if trial.phase == "watch" and force and force.id == trial.manifest.gate:
        back = msgspec.structs.replace(force, id=trial.before, previous="", sha256="")
        notes[FORCE] = msgspec.json.encode(back).decode()
    event = Event(
        what=what, gate=trial.manifest.gate, said=f"release {trial.manifest.version}: {why}"
    )
    store.put_many([], meta=notes, events=[event], counters={what.replace(" ", "_"): 1})


_FAILED = {"shadow": "refused", "watch": "rolled back"}


def _ended(releases: Releases, trial: Trial, why: str) -> dict[str, str]:
    last = f"release {trial.manifest.version} {_FAILED[trial.phase]}: {why}"
    return msgspec.structs.replace(releases, trial=None, last=last).note()


class Trials(Observer):
    """Takes up what is asked with ``activate`` and ``rollback``, and brings it to its end.

    Give it to the loop as an observer. told: is given a line per step. clock: the machine's time.
    """

    def __init__(
        self,
        store: Store,
        force: InForce,
        *,
        told: Callable[[str], object] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._force, self._told, self._clock = store, force, told, clock
        self.releases = noted_releases(store.meta)
        self._new: Gate | None = None
        self._answered = 0
        self._looked = 0
        trial = self.releases.trial
        if trial and trial.phase == "shadow":
            force.pinned.add(trial.manifest.gate)
            self._open(trial)
        elif trial and force.gate.id != trial.manifest.gate:
            self._end(trial, "its gate is no longer in force")
        elif trial:
            force.pinned.add(trial.before)
            self._alarm = DriftAlarm(force.gate.info.calibration, trial.drift)

    @property
    def busy(self) -> bool:
        """Whether a release is under way: nobody else changes the gate meanwhile."""
        return self.releases.trial is not None

    # While the loop decides ---------------------------------------------------------------------

    def decided(self, batch: Batch) -> Mapping[str, str]:
        """Let the new gate decide as well, or watch it."""
        trial = self.releases.trial
        if trial is None:
            return {}
        if trial.phase == "shadow":
            trial = self._shadowed(trial, batch)
        else:
            trial = self._watched(trial, batch)
        if trial is None:
            return {}
        self.releases = msgspec.structs.replace(self.releases, trial=trial)
        return self.releases.note()

    def turn(self) -> None:
        """Take up what is asked, and take the step that is due."""
        self._take_request()
        trial = self.releases.trial
        if trial is None or self._force.offered:
            return
        limits, passed = trial.manifest.limits, self._clock() - trial.since
        if trial.phase == "shadow":
            late = limits.shadow_seconds is not None and passed >= limits.shadow_seconds
            if trial.shadow.samples >= limits.shadow or late:
                self._judge(trial)
            return
        if why := self._worse(trial):
            self._end(trial, why)
            return
        late = limits.watch_seconds is not None and passed >= limits.watch_seconds
        if trial.samples >= limits.watch or late:
            said = f"release {trial.manifest.version} is kept after {trial.samples:,} samples"
            self._note(msgspec.structs.replace(self.releases, trial=None, last=said), "kept", said)

    def failed(self, error: GateError) -> bool:
        """The gate in force cannot decide: back to the one before, where it is a new one."""
        trial = self.releases.trial
        if trial is None or trial.phase != "watch":
            return False
        self._end(trial, f"it failed ({error!s:.300})")
        return self._force.offered

    # Steps --------------------------------------------------------------------------------------

    def _take_request(self) -> None:
        try:
            at = request_file(self._store.path).stat().st_mtime_ns
        except OSError:
            return
        if at == self._answered:
            return
        self._answered = at
        try:
            request = asked(self._store.path)
            if request and request.manifest:
                self._begin(request.manifest)
            elif request:
                self._back(request)
        except (ReleaseError, GateError) as error:
            self._told(str(error))
            self._store.put_many([], events=[Event(what="refused", said=str(error)[:1000])])
        answered(self._store.path)

    def _begin(self, manifest: Manifest) -> None:
        trial = self.releases.trial
        if trial and trial.manifest == manifest:
            return  # taken up before, and killed before the request was removed
        if trial:
            raise ReleaseError(
                f"release {manifest.version} waits: release {trial.manifest.version} is in its "
                f"{trial.phase}; activate it again when that has ended, or roll back first"
            )
        gate = Gate.load(candidate_file(self._store.path, manifest.gate))
        if gate.sha256 != manifest.sha256:
            raise ReleaseError(f"{gate.name}: is not the gate that was verified; activate again")
        if problem := unfit(gate.info, self._force.gate.info):
            raise ReleaseError(f"release {manifest.version}: its gate {problem}")
        self._force.pinned.add(gate.id)
        self._force.keep(gate)
        trial = Trial(
            manifest=manifest, phase="shadow", before=self._force.gate.id, since=self._clock()
        )
        self._new = gate
        said = (
            f"release {manifest.version} ({gate.id}) decides in the shadow of {trial.before} for "
            f"{manifest.limits.shadow:,} samples"
        )
        self._note(msgspec.structs.replace(self.releases, trial=trial), "shadow", said)

    def _open(self, trial: Trial) -> None:
        try:
            self._new = self._force.stored(trial.manifest.gate, trial.manifest.sha256)
        except GateError as error:
            self._end(trial, f"its gate cannot be opened ({error!s:.300})")

    def _shadowed(self, trial: Trial, batch: Batch) -> Trial | None:
        assert self._new is not None  # noqa: S101 - opened with the trial
        started = time.perf_counter()
        try:
            verdicts = self._new.observe_batch(batch.samples)[0]
        except GateError as error:
            self._end(trial, f"it failed ({error!s:.300})")
            return None
        both = (list(batch.verdicts), verdicts)
        gates = (self._force.gate.info, self._new.info)
        seconds = (batch.seconds, time.perf_counter() - started)
        shadow = shadows.compared(trial.shadow, gates, both, seconds)
        return msgspec.structs.replace(trial, shadow=shadow)

    def _judge(self, trial: Trial) -> None:
        """At the end of the shadow: put the new gate in force, or let it go."""
        assert self._new is not None  # noqa: S101 - opened with the trial
        manifest, gates = trial.manifest, (self._force.gate.info, self._new.info)
        if found := shadows.broken(trial.shadow, gates, manifest.limits):
            self._end(trial, "; ".join(found))
            return
        watch = msgspec.structs.replace(
            trial, phase="watch", since=self._clock(), before=self._force.gate.id, deaths=0
        )
        releases = msgspec.structs.replace(self.releases, trial=watch).entered(manifest)
        said = (
            f"release {manifest.version} ({manifest.gate}) takes the place of {watch.before}; "
            f"shadow: {shadows.told(trial.shadow)}"
        )
        self._force.pinned = {watch.before}
        self._force.offer(self._new, "switched", said, releases.note())
        self.releases = releases
        self._alarm = DriftAlarm(self._new.info.calibration, watch.drift)

    def _watched(self, trial: Trial, batch: Batch) -> Trial:
        rows = [
            (v.score, v.quality, v.predicted, s.time)
            for s, v in zip(batch.samples, batch.verdicts, strict=True)
            if v.reason is not Reason.UNREADABLE
        ]
        if rows:
            self._alarm.note(*(np.array(column) for column in zip(*rows, strict=True)))
        return msgspec.structs.replace(
            trial, samples=trial.samples + len(rows), drift=self._alarm.state
        )

    def _worse(self, trial: Trial) -> str:
        """What is worse than the release allows; "" where nothing is."""
        limits = trial.manifest.limits
        for alarm in self._alarm.alarms:
            if not alarm.over and alarm.psi > limits.psi:
                return (
                    f"drift of the {alarm.what}: stability index {alarm.psi:.2f}, "
                    f"{limits.psi:g} is allowed"
                )
        due = trial.samples - self._looked >= _LOOK or trial.samples >= limits.watch
        if limits.accuracy is None or not due:
            return ""
        self._looked = trial.samples
        gate, info = trial.manifest.gate, self._force.gate.info
        figures = noted_figures(self._store.meta).get(gate)
        seen = measured(self._store, info.classes, gate=gate)
        found = estimate(seen, figures.stream, len(info.classes)) if figures else None
        if found and found.accuracy.high < limits.accuracy:
            return (
                f"accuracy is {found.accuracy.value:.1%} (at most {found.accuracy.high:.1%}) by "
                f"{found.labelled:,} labels, {limits.accuracy:.1%} is asked for"
            )
        return ""

    def _back(self, request: Request) -> None:
        """As ``rollback`` asks."""
        why = request.why or "asked for"
        if trial := self.releases.trial:
            self._end(trial, why)
            return
        if not self._force.previous:
            raise ReleaseError("there is no gate before the one in force to go back to")
        last = f"rolled back from {self._force.gate.id} to {self._force.previous}: {why}"
        releases = msgspec.structs.replace(self.releases, last=last)
        gate = self._force.stored(self._force.previous)
        self._switch(gate, last, releases)

    def _end(self, trial: Trial, why: str) -> None:
        """Undo a trial: forget the shadow, or put the gate before in force again."""
        what, manifest = _FAILED[trial.phase], trial.manifest
        self._force.pinned = set()
        said = f"release {manifest.version} {what}: {why}"
        releases = msgspec.structs.replace(self.releases, trial=None, last=said)
        if trial.phase == "watch" and self._force.gate.id == manifest.gate:
            try:
                self._switch(self._force.stored(trial.before), said, releases)
            except GateError as error:  # the old gate's file is gone: the one that is there decides
                self._note(releases, "refused", f"{said}; no way back ({error!s:.200})")
            return
        self._new = None
        self._note(releases, what, said)

    def _switch(self, gate: Gate, said: str, releases: Releases) -> None:
        self._force.offer(gate, "rolled back", said, releases.note(), back=True)
        self.releases = releases

    def _note(self, releases: Releases, what: str, said: str) -> None:
        event = Event(what=what, gate=self._force.gate.id, said=said)
        self._store.put_many([], meta=releases.note(), events=[event])
        self.releases = releases
        self._told(f"{what}: {said}")

    def figures(self) -> dict[str, float]:
        """For metrics."""
        trial = self.releases.trial
        return {
            "release_version": self.releases.versions.get(self._force.gate.id, 0),
            "release_phase": {"shadow": 1, "watch": 2}[trial.phase] if trial else 0,
            "release_samples": (
                (trial.shadow.samples if trial.phase == "shadow" else trial.samples) if trial else 0
            ),
        }
