"""The few fields of an ONNX file that must be seen before any runtime opens it, or be replaced.

The device has no ``onnx`` package (18 MB), but onnxruntime brings protobuf. This declares just
the parts of onnx.proto3 that the checks read and that a new head changes; protobuf keeps everything
else as it is.
"""

from collections.abc import Iterator
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from dripgate.errors import GateError

#: message → {field: (number in onnx.proto3, type)}; a type that ends in * is repeated.
_FIELDS: dict[str, dict[str, tuple[int, str]]] = {
    "Model": {
        "graph": (7, "Graph"),
        "opset_import": (8, "Opset*"),
        "metadata_props": (14, "Entry*"),
        "functions": (25, "Function*"),
    },
    "Opset": {"domain": (1, "string"), "version": (2, "int64")},
    "Entry": {"key": (1, "string"), "value": (2, "string")},
    "Function": {"name": (1, "string")},
    "Graph": {
        "node": (1, "Node*"),
        "initializer": (5, "Tensor*"),
        "input": (11, "Value*"),
        "output": (12, "Value*"),
        "sparse_initializer": (15, "Sparse*"),
    },
    "Value": {"name": (1, "string"), "type": (2, "Type")},
    "Type": {"tensor_type": (1, "TensorType")},
    "TensorType": {"elem_type": (1, "int32"), "shape": (2, "Shape")},
    "Shape": {"dim": (1, "Dimension*")},
    "Dimension": {"dim_value": (1, "int64"), "dim_param": (2, "string")},
    "Node": {"op_type": (4, "string"), "attribute": (5, "Attribute*"), "domain": (7, "string")},
    "Attribute": {
        "t": (5, "Tensor"),
        "g": (6, "Graph"),
        "tensors": (10, "Tensor*"),
        "graphs": (11, "Graph*"),
        "sparse_tensor": (22, "Sparse"),
        "sparse_tensors": (23, "Sparse*"),
    },
    "Tensor": {
        "dims": (1, "int64*"),
        "data_type": (2, "int32"),
        "name": (8, "string"),
        "raw_data": (9, "bytes"),
        "external_data": (13, "Entry*"),
        "data_location": (14, "int32"),
    },
    "Sparse": {"values": (1, "Tensor"), "indices": (2, "Tensor")},
}


def _declare() -> Any:
    """The message class of ``Model``."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="dripgate/onnx_wire.proto", package="dripgate.onnx_wire", syntax="proto2"
    )
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for label, (number, kind) in fields.items():
            added = message.field.add(name=label, number=number)
            added.label = field.LABEL_REPEATED if kind.endswith("*") else field.LABEL_OPTIONAL
            base = kind.removesuffix("*")
            if base in _FIELDS:
                added.type, added.type_name = field.TYPE_MESSAGE, f".dripgate.onnx_wire.{base}"
            else:
                added.type = getattr(field, f"TYPE_{base.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("dripgate.onnx_wire.Model"))


_Model = _declare()


def parse(data: bytes, name: str) -> Any:
    """The declared part of an ONNX file. Raises GateError where it is not one."""
    try:
        model = _Model.FromString(data)
    except DecodeError:
        model = None
    if model is None or not model.graph.node or not model.opset_import:
        raise GateError(
            f"{name}: not an ONNX model (or a damaged one); "
            "give the gate.onnx that 'dripgate fit' wrote"
        )
    return model


def refuse_unsafe(model: Any, name: str) -> None:
    """Raise GateError where running the model could read other files or other code."""
    foreign = {opset.domain for opset in model.opset_import} | {
        node.domain for graph in _graphs(model.graph) for node in graph.node
    }
    foreign -= {"", "ai.onnx"}
    if foreign or model.functions:
        found = ", ".join(sorted(foreign)) or "model-local functions"
        raise GateError(
            f"{name}: uses operators outside of the standard ONNX domain ({found}); "
            "dripgate runs only standard operators, export it again with 'dripgate fit'"
        )
    if any(t.data_location or t.external_data for t in _tensors(model.graph)):
        raise GateError(
            f"{name}: keeps its weights in another file (external data), which is not read for "
            "safety; export it again with 'dripgate fit', which writes one file"
        )
    nested = {n.op_type for n in model.graph.node if any(map(_inner, n.attribute))}
    if nested:
        raise GateError(
            f"{name}: has loops or branches ({', '.join(sorted(nested)):.80}), which no gate needs "
            "and which may never end; export it again with 'dripgate fit'"
        )


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and all that are nested in its nodes' attributes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in _inner(attribute):
                yield from _graphs(inner)


def _inner(attribute: Any) -> list[Any]:
    """The graphs in an attribute: the body of a loop, the branches of a condition."""
    return [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]


def _tensors(graph: Any) -> Iterator[Any]:
    for inner in _graphs(graph):
        yield from inner.initializer
        sparse = [*inner.sparse_initializer]
        for node in inner.node:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
                sparse += [attribute.sparse_tensor, *attribute.sparse_tensors]
        for tensor in sparse:
            yield from (tensor.values, tensor.indices)
