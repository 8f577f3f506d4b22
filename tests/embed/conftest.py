"""A gate's C folder, and its C compiled for this machine and called through ctypes."""

import ctypes

import numpy as np
import pytest

from dripgate.embed import embed


class VerdictC(ctypes.Structure):
    _fields_ = (
        ("predicted", ctypes.c_int16), ("decision", ctypes.c_uint8), ("reason", ctypes.c_uint8),
        ("score", ctypes.c_float), ("quality", ctypes.c_float), ("propensity", ctypes.c_double),
    )  # fmt: skip


class Host:
    """The folder's C on this machine."""

    def __init__(self, library, folder, out):
        self.library = library(sorted((folder / "src").glob("*.c")), out)
        self.library.dripgate_logits.restype = ctypes.POINTER(ctypes.c_float)

    def selftest(self):
        return self.library.dripgate_selftest()

    def decide(self, samples, classes):
        """(logits, score, quality, predicted, verdict) of N samples, one after the other."""
        rows = []
        for sample in samples:
            verdict, data = VerdictC(), np.ascontiguousarray(sample)
            self.library.dripgate_decide(
                data.ctypes.data_as(ctypes.c_void_p), ctypes.byref(verdict)
            )
            logits = np.array(self.library.dripgate_logits()[:classes], np.float32)
            rows.append(
                (logits, verdict.score, verdict.quality, verdict.predicted, verdict.decision)
            )
        return [np.array(column) for column in zip(*rows, strict=True)]


@pytest.fixture(scope="session")
def folder(gate, tmp_path_factory):
    """What `dripgate embed` makes of the loop's gate; read only."""
    out = tmp_path_factory.mktemp("embed") / "gate"
    embed(gate, out)
    return out


@pytest.fixture(scope="session")
def host(library, folder, tmp_path_factory):
    return Host(library, folder, tmp_path_factory.mktemp("host") / "gate.so")


@pytest.fixture(scope="session")
def host_of():
    return Host
