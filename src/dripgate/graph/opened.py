"""A classifier, opened: its graph in normal form, measured, with its logits and its cuts."""

from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir

from dripgate.errors import ModelError
from dripgate.graph.builder import Builder
from dripgate.graph.cut import Cut, find_cuts, spatial
from dripgate.graph.head import Head, choose_output, take_head
from dripgate.graph.measure import Measured, measure, run, samples_like, session
from dripgate.graph.read import normal_form
from dripgate.types import Array

#: Two runs of one sample may differ by this, relative to the largest value.
_SAME = 1e-3


@dataclass
class Opened:
    """What is known of a classifier. ``build`` appends to its graph."""

    name: str
    file: bytes  # as it was brought
    model: ir.Model
    given: ir.Value  # its input
    measured: Measured
    output: ir.Value  # the output with the classes, as the file gives it
    quantum: tuple[float, int]  # that output's scale and zero point where it is quantised, else 0
    head: Head
    cuts: list[Cut]  # those that can be activations, first to last
    build: Builder
    notes: list[str] = field(default_factory=list)  # choices made, to be said


def open_classifier(
    proto: onnx.ModelProto, name: str = "the model", *, shape: tuple[int, ...] | None = None,
    output: str | None = None,
) -> Opened:  # fmt: skip
    """Read a classifier's graph and find its logits and cuts.

    shape: of one sample at its input, where the file leaves sizes open. output: the name of the
    output with the classes. Raises ModelError for what is no classifier, or cannot be a gate.
    """
    first: ModelError | None = None
    for free in (True, False):
        model = normal_form(proto, name)
        given = _input(model, name)
        size = _sample_shape(given, shape, name)
        batch = None if free else _own_batch(given)
        try:
            _set_input(given, size, batch)
            if free:
                _free_batch(model)
            measured = measure(model, given, size, batch)
            chosen, notes = choose_output(model, measured, output)
            values = _outputs(model, given, chosen, size, batch)
            break
        except _MixedError as error:
            first = error
        except ModelError as error:
            first = first or error
            if not free:
                raise ModelError(f"{name}: {first}") from None
    if not free:
        notes.append(f"takes {batch} sample(s) at a time, and so does the gate ({first})")
    build = Builder(model.graph, measured.shapes)
    head, more = take_head(build, chosen, values)
    cuts = spatial(find_cuts(model.graph, head.origin, measured), measured)
    return Opened(
        name,
        bytes(proto.SerializeToString()),
        model,
        given,
        measured,
        chosen,
        _quantum(chosen),
        head,
        cuts,
        build,
        [*notes, *more],
    )


def _quantum(output: ir.Value) -> tuple[float, int]:
    node = output.producer()
    if node is None or node.op_type != "QuantizeLinear":
        return 0.0, 0
    scale, zero = (*(v.const_value if v is not None else None for v in node.inputs[1:3]), None)[:2]
    return (
        float(scale.numpy().max()) if scale is not None else 0.0,
        int(zero.numpy().ravel()[0]) if zero is not None else 0,
    )


class _MixedError(ModelError):
    """What a sample gives depends on the others in its batch."""


def _input(model: ir.Model, name: str) -> ir.Value:
    inputs = [value for value in model.graph.inputs if value.uses()]
    if len(inputs) != 1:
        listed = ", ".join(f"'{value.name}'" for value in model.graph.inputs)
        raise ModelError(
            f"{name} has {len(inputs)} inputs ({listed}); a gate judges one sample by one tensor, "
            "so export the classifier with the others fixed"
        )
    model.graph.inputs[:] = inputs
    if inputs[0].shape is None or not inputs[0].shape:
        raise ModelError(f"{name}: its input '{inputs[0].name}' has no shape; export it with one")
    return inputs[0]


def _sample_shape(
    given: ir.Value, shape: tuple[int, ...] | None, name: str
) -> tuple[int, ...]:  # fmt: skip
    sizes = list(given.shape or ())[1:]
    if shape is not None and len(shape) == len(sizes):
        return tuple(s if isinstance(s, int) else w for s, w in zip(sizes, shape, strict=True))
    numbers = [size for size in sizes if isinstance(size, int) and size > 0]
    if len(numbers) != len(sizes):
        raise ModelError(
            f"{name}: its input '{given.name}' is {given.shape}, with sizes left open; "
            "say them with --size"
        )
    return tuple(numbers)


def _own_batch(given: ir.Value) -> int:
    size = (given.shape or [1])[0]
    return size if isinstance(size, int) and size > 0 else 1


def _set_input(given: ir.Value, shape: tuple[int, ...], batch: int | None) -> None:
    given.shape = ir.Shape([batch if batch is not None else "batch", *shape])


def _free_batch(model: ir.Model) -> None:
    """A Reshape whose first size is a number 1 means the batch, if no other size is open."""
    for node in list(model.graph):
        wanted = node.inputs[1] if node.op_type == "Reshape" else None
        target = wanted.const_value if wanted is not None else None
        if target is None:
            continue
        sizes = target.numpy()
        if sizes.ndim == 1 and len(sizes) > 1 and sizes[0] == 1 and -1 not in sizes:
            name = f"{node.outputs[0].name}.freed"
            tensor = ir.tensor(np.array([-1, *sizes[1:]], np.int64), name=name)
            value = ir.val(name, tensor.dtype, ir.Shape(sizes.shape), const_value=tensor)
            model.graph.register_initializer(value)
            node.replace_input_with(1, value)


def _outputs(
    model: ir.Model, given: ir.Value, chosen: ir.Value, shape: tuple[int, ...], batch: int | None
) -> Array:
    """The chosen output for made-up samples; raises _MixedError where a batch's samples mix."""
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    for value in proto.graph.output:
        value.ClearField("type")
    found = session(proto.SerializeToString())
    sizes = (3, 2) if batch is None else (batch,)
    results = [
        run(found, {str(given.name): samples_like(given, n, shape)}, [str(chosen.name)])[0]
        for n in sizes
    ]
    values, again = (np.asarray(r, np.float64) for r in (results[0], results[-1]))
    scale = max(float(np.abs(values).max()), 1e-9)
    if not np.isfinite(values).all():
        raise ModelError("its output is not finite for ordinary samples; check its weights")
    if np.abs(values[: len(again)] - again).max() > _SAME * scale:
        raise _MixedError("a sample's logits depend on the others in its batch")
    return np.asarray(values)
