"""A gate's graph in onnxruntime: opened as what it was checked as, and tried once, within bounds.

A file that is nobody's friend may be valid and still ask for a terabyte, or never come to an end.
So memory is bounded for all that gates do in this process, constants are not computed while a
file is opened, and the first run, on noise, is ended after a minute. Loops were refused before.
"""

import math
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
import onnxruntime

from dripgate.errors import GateError
from dripgate.gate_info import INPUT_NAME, GateInfo
from dripgate.types import Array

#: Most memory that the runs of all gates of a process take together, weights included, in bytes;
#: half of the machine's where that is less.
MEMORY = 4 << 30
#: Seconds after which the first run is ended.
TRIAL = 60.0
#: Sessions of a process before its fork: to destroy one would wait for threads that are not here.
_LEFT: list[Any] = []
_SILENT = 4  # severity: what goes wrong is in the exception


class Runner:
    """Runs the checked bytes of a gate file, here and in forked processes."""

    def __init__(self, data: bytes, name: str, info: GateInfo, threads: int) -> None:
        """Raises GateError where onnxruntime cannot run it, or it does not do what it says."""
        self._data, self._name, self._threads = data, name, threads
        self._open()
        self._try(info)

    def run(self, names: Sequence[str], samples: Array) -> list[Array]:
        """The outputs of these names for samples (N, …). Raises GateError."""
        if self._process != os.getpid():  # a fork takes no threads along
            _LEFT.append(self._session)
            self._open()
        outputs = self._run(names, samples)
        # Every decision pays for this, so it is one comparison. A dtype cannot change later.
        count = (len(samples),)
        if [found.shape for found in outputs] != [count + self._tails[name] for name in names]:
            for name, found in zip(names, outputs, strict=True):
                self._expect(name, found, found.dtype, count + self._tails[name])
        return outputs

    def _open(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = _SILENT
        # The file was checked as ONNX. Else one that begins as onnxruntime's own format is run as
        # that, whatever its ONNX part says.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        if _memory_is_bounded():
            options.add_session_config_entry("session.use_env_allocators", "1")
        try:
            self._session = onnxruntime.InferenceSession(
                self._data,
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=["ConstantFolding"],  # gates are folded, and it has no bound
            )
        except Exception as error:  # onnxruntime's errors share no base class
            raise GateError(
                f"{self._name}: onnxruntime {onnxruntime.__version__} cannot run it "
                f"({_cause(error)}); install a newer onnxruntime or fit the gate again"
            ) from None
        self._process = os.getpid()
        first = self._session.get_inputs()[0].shape[0]
        #: How many samples the graph takes at a time; None is any number.
        self.batch: int | None = first if isinstance(first, int) else None

    def _try(self, info: GateInfo) -> None:
        """Run once on noise: what a gate asks for, it asks for here."""
        inputs = self._session.get_inputs()
        if [one.name for one in inputs] != [INPUT_NAME]:
            found = ", ".join(one.name for one in inputs)
            raise self._strange(f"has the inputs {found:.80}, expected {INPUT_NAME}")
        shape, size = (self.batch or 1, *info.input.shape), info.input.dtype.itemsize
        if math.prod(shape) * size > MEMORY // 4:
            raise self._strange(f"takes {shape[0]:,} samples at a time, more than fit in memory")
        options = onnxruntime.RunOptions()
        options.log_severity_level = _SILENT
        end = threading.Timer(TRIAL, setattr, (options, "terminate", True))
        end.daemon = True
        end.start()
        try:
            outputs = self._run(info.output_names, _noise(shape, info.input.dtype), options)
        finally:
            end.cancel()
        forms = {
            "logits": (np.float32, (len(info.classes),)), "score": (np.float32, ()),
            "verdict": (np.int8, ()), "quality": (np.float32, ()),
        }  # fmt: skip
        for name, output in zip(info.output_names, outputs, strict=True):
            dtype, tail = forms.get(name, (np.float32, output.shape[1:]))
            self._expect(name, output, np.dtype(dtype), (shape[0], *tail))
        #: What each output's shape is behind the number of samples.
        self._tails = {n: o.shape[1:] for n, o in zip(info.output_names, outputs, strict=True)}
        if not np.isfinite(outputs[0]).all():
            raise self._strange("gives logits that are no numbers: its weights are damaged")

    def _run(self, names: Sequence[str], samples: Array, options: Any = None) -> list[Array]:
        try:
            outputs: list[Array] = self._session.run(names, {INPUT_NAME: samples}, options)
        except Exception as error:
            late = options is not None and options.terminate
            cause = f"no result after {TRIAL:.0f} s" if late else _cause(error)
            raise self._strange(f"cannot be run ({cause})") from None
        return outputs

    def _expect(self, name: str, found: Array, dtype: Any, shape: tuple[int, ...]) -> None:
        if found.shape != shape or found.dtype != dtype:
            raise self._strange(
                f"gives {name} as {found.dtype} {found.shape} for {shape[0]} samples, "
                f"expected {dtype} {shape}"
            )

    def _strange(self, what: str) -> GateError:
        return GateError(f"{self._name}: {what}; fit the gate again with 'dripgate fit'")


@cache
def _memory_is_bounded() -> bool:
    """Give gates an allocator with an end; False where onnxruntime has none on this machine."""
    most = MEMORY
    with suppress(AttributeError, ValueError, OSError):
        most = min(most, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    arena = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    where = onnxruntime.OrtMemoryInfo("Cpu", arena, 0, onnxruntime.OrtMemType.DEFAULT)
    try:
        onnxruntime.create_and_register_allocator(where, onnxruntime.OrtArenaCfg({"max_mem": most}))
    except Exception:  # 32-bit machines have no arena
        return False
    return True


def _noise(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    rng = np.random.default_rng(0)
    if dtype.kind == "f":
        return rng.standard_normal(shape, np.float32)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def _cause(error: Exception) -> str:
    """The end of onnxruntime's first line, which is what it means."""
    text = str(error).strip().partition("\n")[0]
    return text if len(text) <= 300 else f"{text[:100]} … {text[-200:]}"
