"""Every error that dripgate raises on purpose.

DripgateError
├── UserError           what the user gave cannot be used; the command line exits with 2
│   ├── DataError       a data set, folder or archive
│   ├── ModelError      a model, its weights or its target layer
│   ├── GateError       a gate file
│   ├── StoreError      a store file
│   ├── ReleaseError    a release, or a key for it
│   ├── UplinkError     a broker, its topic, credentials or certificate
│   └── MissingExtra    a part of dripgate that is not installed
├── IncompleteError     not everything was sent; what is left stays pending
├── ParityError         an exported graph disagrees with autograd: our fault, nothing is written
└── UnreadableError     one sample cannot be decoded; streams count it and go on

A message names the thing, what was found, what was expected, and what to do, on one line.
"""

from importlib.util import find_spec


class DripgateError(Exception):
    """Base of all errors raised by dripgate."""


class UserError(DripgateError):
    """Something the user gave cannot be used; the message says what to do."""


class DataError(UserError):
    """A data set, folder, archive or source cannot be used."""


class ModelError(UserError):
    """A model, its weights or its target layer cannot be used."""


class GateError(UserError):
    """A gate file cannot be used."""


class StoreError(UserError):
    """A store file cannot be used."""


class ReleaseError(UserError):
    """A release cannot be made, or must not be activated."""


class UplinkError(UserError):
    """A broker, or a topic, credentials or a certificate for it, cannot be used."""


class MissingExtra(UserError):  # noqa: N818 - reads as what it is
    """A part of dripgate that needs an extra which is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs the '{extra}' extra, which is not installed here; "
            f"run: pip install 'dripgate[{extra}]'"
        )


def require(what: str, extra: str, *packages: str) -> None:
    """Before long work: MissingExtra unless all packages that ``what`` needs are installed."""
    for package in packages:
        try:
            found = find_spec(package)
        except (ModuleNotFoundError, ValueError):
            found = None
        if found is None:
            raise MissingExtra(what, extra)


class IncompleteError(DripgateError):
    """Not everything could be sent; what is left is still in the store."""


class ParityError(DripgateError):
    """An exported graph does not reproduce autograd's numbers; it was not written."""


class UnreadableError(DripgateError):
    """One sample's payload cannot be decoded. ``str(error)`` is the cause, without the name."""
