"""An ONNX file as people have it, brought into the one form that everything else works on.

One operator set, functions inlined, constants as initializers, one input and one output. Nothing
in the file is executed here but standard operators, and nothing else is read than the file and
the tensors stored beside it.
"""

from pathlib import Path, PurePath

import onnx
import onnx_ir as ir
from onnx import checker, defs, external_data_helper, version_converter
from onnx_ir.passes import common

from dripgate.errors import ModelError
from dripgate.gate_info import LARGEST_FILE

#: The ONNX operator set that a gate is written in, or a newer one if the classifier is.
OPSET = 20
_STANDARD = {"", "ai.onnx"}
#: A constant that operators compute is stored in their place up to this size, in bytes, or where
#: it is no larger than what it is computed from.
FOLDED = 1_000_000


def load(model: bytes | str | Path | onnx.ModelProto, name: str = "the model") -> onnx.ModelProto:
    """Parse an ONNX model: a path, the file's bytes, or the message itself.

    Tensors beside the file are read where a path is given. Raises ModelError.
    """
    if isinstance(model, onnx.ModelProto):
        return model
    folder = None
    if isinstance(model, str | Path):
        path, name, folder = Path(model), str(model), str(Path(model).parent)
        model = _bytes_of(path)
    try:
        proto = onnx.load_model_from_string(model)
    except Exception:  # protobuf's error class depends on its implementation
        proto = onnx.ModelProto()
    if not proto.graph.node:
        raise ModelError(f"{name}: no ONNX model; give an .onnx file as an exporter wrote it")
    return _with_external(proto, name, folder)


def _bytes_of(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise ModelError(f"{path}: no such file; give an .onnx file")
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise ModelError(
                f"{path}: {size / 1e6:.0f} MB, more than the {LARGEST_FILE / 1e6:.0f} MB that a "
                "gate may have; give a classifier for the edge, or a smaller variant of it"
            )
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from None


def _with_external(proto: onnx.ModelProto, name: str, folder: str | None) -> onnx.ModelProto:
    outside = [t for t in proto.graph.initializer if external_data_helper.uses_external_data(t)]
    if not outside:
        return proto
    if folder is None:
        raise ModelError(
            f"{name}: its weights lie in another file; give the path of the .onnx file, with that "
            "file beside it, or export with external_data=False"
        )
    infos = [external_data_helper.ExternalDataInfo(t) for t in outside]
    for info in infos:
        if PurePath(info.location).name != info.location:
            raise ModelError(
                f"{name}: its weights are said to lie in '{info.location}'; dripgate reads files "
                "in the model's own folder only"
            )
    total = sum(
        (Path(folder) / location).stat().st_size
        for location in {info.location for info in infos}
        if (Path(folder) / location).is_file()
    )
    if total > LARGEST_FILE:
        raise ModelError(
            f"{name}: {total / 1e6:.0f} MB of weights, more than the {LARGEST_FILE / 1e6:.0f} MB "
            "that a gate may have; give a smaller variant of the classifier"
        )
    try:
        external_data_helper.load_external_data_for_model(proto, folder)
    except (checker.ValidationError, OSError, ValueError) as error:
        cause = str(error).splitlines()[0]
        raise ModelError(f"{name}: the weights beside it cannot be read ({cause})") from None
    return proto


def normal_form(proto: onnx.ModelProto, name: str) -> ir.Model:
    """The model with one operator set, without functions, constants as initializers.

    Raises ModelError for operators of other domains, and for what ONNX itself cannot convert.
    """
    opset = max((o.version for o in proto.opset_import if o.domain in _STANDARD), default=1)
    model = ir.from_proto(proto)
    common.InlinePass()(model)
    _refuse_foreign(model, name)
    if opset < OPSET:
        model = _converted(model, name, opset)
    for tidy in (
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.RemoveInitializersFromInputsPass(),
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
        common.NameFixPass(),
        common.TopologicalSortPass(),
    ):
        tidy(model)
    return model


def _converted(model: ir.Model, name: str, opset: int) -> ir.Model:
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    try:
        return ir.from_proto(version_converter.convert_version(proto, OPSET))
    except Exception as error:
        cause = (
            str(error).strip().splitlines()[-1][:200] if str(error).strip() else "no reason given"
        )
        raise ModelError(
            f"{name}: cannot be brought from operator set {opset} to {OPSET} ({cause}); "
            f"export it again with opset {OPSET}"
        ) from None


def _refuse_foreign(model: ir.Model, name: str) -> None:
    foreign, unknown = set(), set()
    for node in model.graph:
        if node.domain not in _STANDARD:
            foreign.add(f"{node.domain}.{node.op_type}")
        elif not defs.has(node.op_type):
            unknown.add(node.op_type)
    if unknown:
        raise ModelError(
            f"{name}: holds what is no operator of ONNX: {', '.join(sorted(unknown)[:5])}; the "
            "converter that wrote it left these as they were, so that nothing runs it: convert it "
            "with another version, or write that part of the model otherwise"
        )
    if foreign:
        hint = (
            "; it was written by onnxruntime's optimizer, give the file that went in"
            if any(kind.startswith(("com.microsoft", "ai.onnxruntime")) for kind in foreign)
            else "; export it with standard operators"
        )
        listed = ", ".join(sorted(foreign)[:5])
        raise ModelError(f"{name}: holds operators outside of ONNX: {listed}{hint}")
