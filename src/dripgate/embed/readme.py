"""The README of the C folder."""

from typing import TYPE_CHECKING

from dripgate.gate import Gate

if TYPE_CHECKING:
    from dripgate.embed.figures import Figures
    from dripgate.embed.folder import Embedded


def text(gate: Gate, made: "Embedded") -> str:
    """Markdown: how to use the folder, and what it takes."""
    info = gate.info
    kind = {"uint8": "uint8_t", "int16": "int16_t"}.get(info.input.dtype.name, "float")
    shape = " × ".join(map(str, info.input.shape))
    return f"""\
# Gate {gate.id} as C99

Made by `dripgate embed`: the classifier, its Grad-CAM score, thresholds and preprocessing as plain
C. No operating system, no malloc, no dependency but the C library's expf and logf (and exp, log,
floor, fmod for the policy).

```c
#include "dripgate.h"

dripgate_verdict verdict;
dripgate_decide(sample, &verdict); /* {kind}, {shape} */
if (verdict.decision != DRIPGATE_DROP) store(sample, verdict.propensity);
```

* **CMake**: `add_subdirectory(this/folder)`, `target_link_libraries(firmware dripgate)`.
* **Arduino** (a core with enough memory): copy the folder into `libraries/dripgate`; see
  `examples/decide`. **Anything else**: add `src/*.c`; net code wants `-fno-strict-aliasing`,
  `dripgate_policy.c` wants `-ffp-contract=off`.
* **Self-test**: `dripgate_selftest()` gives 0 where this build gives what onnxruntime gave.
  `examples/bare` runs it under QEMU or a debugger, without a board.
* **Quality**: 0 … 1, how like the calibration samples the net's input is. Below the gate's lower
  bound the verdict is quarantine, with reason `DRIPGATE_QUALITY`.
* **Policy**: `dripgate_init(&policy, &rules)` adds a share of the stream, budgets, class floors,
  the audit and the bound on quarantine, decision by decision as the Python policy with
  `duplicates=0`. Without that call none of it is linked. Call `dripgate_time(seconds)` before
  deciding if there is a budget. Keep the struct in retained memory, and `dripgate_resume` it after
  a sleep.
  `-DDRIPGATE_SHARE=0` leaves out what ranks scores.

{_learning(made)}## What it takes

{_figures(made)}

The arena is planned before compilation: tensors that live at the same time never overlap. At the
busiest step {made.bound:,} bytes are alive, the arena is {made.arena:,}.

## Limits

32-bit floats throughout: a core without an FPU (M0, M3) runs it, much slower. One sample
at a time, not reentrant. Embeddings and heatmaps are not kept; near-duplicates and the drift alarm
of the Python policy are not here.
"""


def _learning(made: "Embedded") -> str:
    head = made.head
    if head is None:
        return ""
    memory = (
        f"{len(head.vectors)} vectors of the initial data"
        if len(head.vectors)
        else ("no memory of the initial data: it may forget classes that are not labelled")
    )
    return f"""\
## The head learns

{head.bias.size} rows of {head.width} features, {memory}. Features of what is kept wait in a ring
for their labels; each call of `dripgate_learn` is a bounded piece of work.

```c
static dripgate_features ring[DRIPGATE_RING];
static dripgate_learner learner;
const dripgate_storage storage = dripgate_ram(ring); /* or two functions of yours, for flash */
dripgate_adapt(&learner, &storage);

dripgate_decide(sample, &verdict);
if (verdict.decision != DRIPGATE_DROP) dripgate_remember(id, verdict.propensity);

dripgate_label(id, label); /* seconds or days later */
dripgate_learn();
```

`-DDRIPGATE_RING=…` sets how many samples can wait. `dripgate_unlearn()` brings the deployed head
back. Thresholds stay as they were: scores change with the head, and the policy's share follows.

"""


def _learner(found: "Figures") -> list[str]:
    if not found.learner_flash:
        return []
    return [
        f"| learning, where it is used: RAM, the ring included | {found.learner_ram:,} |",
        f"| learning, where it is used: flash, the memory included | {found.learner_flash:,} |",
    ]


def _figures(made: "Embedded") -> str:
    rows = [f"| constants in flash | {made.weights:,} |", f"| arena in RAM | {made.arena:,} |"]
    found = made.figures
    if found is None:
        rows.append("| code and stack | not measured: arm-none-eabi-gcc was not installed |")
    else:
        rows = [
            f"| flash: code, constants, C library | {found.flash:,} |",
            f"| RAM: arena and static variables | {found.ram:,} |",
            f"| stack | {found.stack:,} |",
            f"| policy, where it is used: RAM | {found.policy_ram:,} |",
            f"| policy, where it is used: flash | {found.policy_flash:,} |",
            *_learner(found),
        ]
    where = "" if found is None else f" on a {found.core}, -Os"
    return "\n".join([f"| bytes{where} | |", "|---|---|", *rows])
