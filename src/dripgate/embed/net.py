"""The net as C99: the generator's loops, run on our arena.

Every tensor that the net computes is made an output of the model given to the generator. It then
has no temporaries of its own, and its entry point takes one pointer per tensor: where each lies
is decided here, and nothing in the generated text is edited.
"""

import re
import shutil
from importlib.resources import as_file, files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import onnx
from emx_onnx_cgen import CodegenError, Compiler, ShapeInferenceError, UnsupportedOpError
from emx_onnx_cgen.compiler import CompilerOptions
from onnx import helper

from dripgate.embed.arena import Plan, lower_bound, plan
from dripgate.embed.graphs import initializers, shapes
from dripgate.embed.lower import Lowered
from dripgate.embed.storage import SCRATCH, storage
from dripgate.errors import GateError

_ENTRY = "dripgate_net_layers"


class Net(NamedTuple):
    """code and data: two C files. offsets: of the graph's outputs in the arena, in bytes.

    arena: bytes. bound: no plan could need less. weights: bytes of constants.
    """

    code: str
    data: str
    offsets: dict[str, int]
    arena: int
    bound: int
    weights: int


def generate(lowered: Lowered) -> Net:
    """C for a lowered gate. Raises GateError for an operator that the generator does not know."""
    model = lowered.model
    held = storage(lowered)
    found = plan(held.blocks)
    code, data = _compile(_all_outputs(model))
    offsets = {name: found.offsets[block] for name, block in held.of.items()}
    return Net(
        code=_HEAD + _static(code) + code + _entry(lowered, offsets, found),
        data=data,
        offsets={value.name: offsets[value.name] for value in model.graph.output},
        arena=found.size,
        bound=lower_bound(held.blocks),
        weights=sum(tensor.nbytes for tensor in initializers(model.graph).values()),
    )


def _all_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with every computed tensor as an output, in the order of computation."""
    known = shapes(model.graph)
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    del wide.graph.output[:], wide.graph.value_info[:]
    for name in _computed(model.graph):
        shape, dtype = known[name]
        element = helper.np_dtype_to_tensor_dtype(dtype)
        wide.graph.output.append(helper.make_tensor_value_info(name, element, shape))
    return wide


def _computed(graph: onnx.GraphProto) -> list[str]:
    return [name for node in graph.node for name in node.output if name]


def _compile(model: onnx.ModelProto) -> tuple[str, str]:
    own = files("dripgate.embed") / "templates"
    with TemporaryDirectory() as folder, as_file(own) as ours:
        templates = Path(folder) / "templates"
        with as_file(files("emx_onnx_cgen") / "templates") as theirs:
            shutil.copytree(theirs, templates)
        (templates / "conv_op.c.j2").rename(templates / "conv_op_any.c.j2")
        shutil.copytree(ours, templates, dirs_exist_ok=True)
        options = CompilerOptions(
            template_dir=templates,
            model_name=_ENTRY,
            restrict_arrays=False,  # results may lie where an input lay
            large_temp_threshold_bytes=0,
            large_weight_threshold=0,
        )
        try:
            code, data = Compiler(options).compile_with_data_file(model)
        except (CodegenError, ShapeInferenceError, UnsupportedOpError) as error:
            raise GateError(
                f"the C generator cannot translate this net ({str(error).splitlines()[0]}); "
                "replace that operation in the model and fit the gate again"
            ) from None
    return str(code), str(data)


_HEAD = """\
/* Each layer stays a function of its own: its registers and stack do not add up with others'. And
 * GCC must not look from one into another: version 12 with -Os, knowing the addresses, took a layer
 * that writes to the arena for one without effect on a Cortex-M3, and left its call out. */
#if defined(__clang__)
#define EMX_NODE_FN static __attribute__((noinline))
#elif defined(__GNUC__)
#define EMX_NODE_FN static __attribute__((noipa))
#else
#define EMX_NODE_FN static
#endif

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

"""


def _static(code: str) -> str:
    """A declaration that makes the generator's entry point this file's own.

    The compiler then merges it into its one caller: no pointer per tensor goes over the stack.
    """
    found = re.search(rf"^(void {_ENTRY}\([^{{]*\)) {{", code, re.MULTILINE)
    if found is None:
        raise GateError(
            f"the C generator wrote no {_ENTRY}(): its version is not the one that dripgate pins; "
            "run pip install 'dripgate[embed]' again"
        )
    return f"static {found[1]};\n\n"


#: What a head that learns reads, and where it lies.
_LAST = """
extern const float *dripgate_head;

const float *dripgate_last_features(void) {{ return AT({}); }}
"""


def _entry(lowered: Lowered, offsets: dict[str, int], found: Plan) -> str:
    front = lowered.spectrum
    names = _computed(lowered.model.graph)
    before, declared, call = "", "", ["sample"]
    if front is not None:
        scratch, mel = offsets[SCRATCH], offsets[front.name]
        before = f"    dripgate_spectrum((const int16_t *)sample, AT({scratch}), AT({mel}));\n"
        call = [f"AT({mel})"]
    if (head := lowered.head) is not None:
        declared = _LAST.format(offsets[head.features])
        call += ["(const void *)dripgate_head", f"dripgate_head + {head.weight.size}"]
    arguments = ",\n        ".join([*call, *(f"AT({offsets[name]})" for name in names)])
    return f"""
/* The only memory the net needs. Tensors that live at the same time do not overlap in it. */
static union {{ double alignment; unsigned char bytes[{found.size}]; }} arena;
#define AT(offset) ((void *)(arena.bytes + (offset)))

void dripgate_spectrum(const int16_t *pcm, void *scratch, float *mel);
{declared}
const unsigned char *dripgate_net(const void *sample)
{{
{before}    {_ENTRY}(
        {arguments});
    return arena.bytes;
}}
"""
