"""Quarantine stays small: broken or alien input must not fill what is meant for good samples."""

import msgspec

#: Samples that may be quarantined in a row, and at the very beginning.
MOST, HEAD = 100.0, 20.0


class Quarantine(msgspec.Struct, forbid_unknown_fields=True):
    """At most a share of the stream, plus a handful saved up while nothing was wrong."""

    credit: float = HEAD

    def tick(self, share: float) -> None:
        """Count one sample of the stream."""
        self.credit = min(self.credit + share, MOST)

    @property
    def open(self) -> bool:
        """Whether one more may go in."""
        return self.credit >= 1

    def spend(self) -> None:
        """One went in."""
        self.credit -= 1
