"""What a run found in its source beside verdicts: classes by folder, remarks, what is unused."""

from collections import Counter
from collections.abc import Collection
from pathlib import Path

import msgspec

from dripgate.cli import describe
from dripgate.data import Finding, Unused, class_of, iter_files
from dripgate.errors import DataError
from dripgate.media import remarks
from dripgate.text import one_line
from dripgate.types import ImageInput, InputSpec, Reason, Sample, Verdict


class Seen(msgspec.Struct):
    """folders: samples by the class folder they came from, where they came from one. elsewhere:
    all others. remarks: what is used but worth knowing. unused: what was passed over, by reason.
    """

    folders: dict[str, int] = {}
    elsewhere: int = 0
    remarks: Unused = msgspec.field(default_factory=Unused)
    unused: Unused = msgspec.field(default_factory=Unused)

    def lines(self) -> list[str]:
        """For people."""
        found = [f"{one_line(label)} {n:,}" for label, n in sorted(self.folders.items())]
        if found and self.elsewhere:
            found.append(f"in no class folder {self.elsewhere:,}")
        lines = [f"class folders  {', '.join(found)}"] if found else []
        lines += [
            f"  note: {pile.count:,} samples have {what}: {one_line(', '.join(pile.examples))}"
            for what, pile in self.remarks.reasons.items()
        ]
        return lines + describe.unused(self.unused.reasons)


class Watching:
    """Counts what comes by; given to ``run`` as on_verdicts. classes: those of the gate."""

    def __init__(self, classes: Collection[str], spec: InputSpec) -> None:
        self._classes, self._spec = frozenset(classes), spec
        self.seen, self._folders = Seen(), Counter[str]()

    def __call__(self, pairs: list[tuple[Sample, Verdict]]) -> None:
        """Of each batch."""
        for sample, verdict in pairs:
            if label := class_of(sample.source, self._classes):
                self._folders[label] += 1
            else:
                self.seen.elsewhere += 1
            if isinstance(self._spec, ImageInput) and verdict.reason is not Reason.UNREADABLE:
                for remark in remarks(sample.payload, self._spec):
                    self.seen.remarks.add(remark, sample.source)

    def after(self, path: Path | None) -> Seen:
        """With what a folder or archive holds that no sample was made of."""
        self.seen.folders, finding = dict(self._folders), Finding()
        if path:
            try:
                for _ in iter_files(path, unused=finding.passed, wanted=lambda name: False):
                    pass
            except DataError:  # told by the run already
                return self.seen
            self.seen.unused = finding.unused
            self.seen.remarks.reasons |= finding.remarks.reasons
        return self.seen
