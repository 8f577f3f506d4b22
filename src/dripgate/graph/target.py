"""Which cut the heatmap is made of: chosen by what its gradient does, and explained."""

import ast
from collections.abc import Iterable
from difflib import get_close_matches
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir

from dripgate.errors import ModelError
from dripgate.graph.cut import Cut
from dripgate.graph.measure import run, samples_like, session
from dripgate.graph.opened import Opened, open_classifier
from dripgate.graph.read import load
from dripgate.graph.reverse import gradient
from dripgate.graph.rules import NoRule
from dripgate.types import Array

#: A cell whose gradient is below this share of the largest has none.
_NONE = 1e-6
#: Cuts without any gradient after which no other is looked at.
_PATIENCE = 4
_UNRULED = "there is no rule for"
_DEAD = "no gradient reaches it"
_WHY = "the last tensor with spatial cells through which everything passes"


class Candidate(NamedTuple):
    """A cut that was looked at. cells: how many its gradient reaches; problem: why it won't do."""

    cut: Cut
    cells: int
    problem: str

    @property
    def unruled(self) -> bool:
        """Whether an operator behind it has no rule."""
        return self.problem.startswith(_UNRULED)


class Chosen(NamedTuple):
    """The target, why, and all that were looked at, last to first."""

    cut: Cut
    why: str
    looked_at: list[Candidate]

    @property
    def module(self) -> str:
        """The outermost torch module whose last tensor is the target; "" where none is known."""
        node = self.cut.value.producer()
        if node is None or node.graph is None:
            return ""
        for name in sorted(modules(self.cut), key=len):
            *_, last = (other for other in node.graph if name in _scopes(other))
            if last is node:
                return name
        return ""


def choose_target(opened: Opened, layer: str | None = None) -> Chosen:
    """The last cut whose gradient reaches more than one cell, or the one called ``layer``.

    Raises ModelError with every cut that there is and why it won't do.
    """
    if layer is not None:
        return _named(opened, layer)
    looked_at: list[Candidate] = []
    dead: list[Cut] = []
    for cut in reversed(opened.cuts):
        candidate = look_at(opened, cut)
        looked_at.append(candidate)
        if not candidate.problem:
            return Chosen(cut, _why(cut, looked_at[:-1]), looked_at)
        dead = [c.cut for c in looked_at if c.problem == _DEAD]
        if len(dead) == _PATIENCE:  # what is dead there is dead before it
            break
    if dead:
        return Chosen(dead[0], f"{_WHY}; {_DEAD} for made-up samples: is it trained?", looked_at)
    raise ModelError(f"{opened.name}: {_refusal(looked_at)}")


def open_first(
    files: Iterable[bytes | onnx.ModelProto], name: str, *, shape: tuple[int, ...] | None = None,
    layer: str | None = None, output: str | None = None,
) -> tuple[int, Opened, Chosen]:  # fmt: skip
    """The first of several files of one classifier that will do: (its place, opened, target).

    Exporters differ in the operators that they write. A file where a later cut lacks a rule is
    taken only if no other does better. Raises ModelError with the first file's reason.
    """
    kept: tuple[int, Opened, Chosen] | None = None
    first: ModelError | None = None
    for place, data in enumerate(files):
        try:
            opened = open_classifier(load(data, name), name, shape=shape, output=output)
            chosen = choose_target(opened, layer)
        except ModelError as error:
            first = first or error
            continue
        if opened.measured.batch is None and not any(c.unruled for c in chosen.looked_at):
            return place, opened, chosen
        if kept is None or (kept[1].measured.batch is not None and opened.measured.batch is None):
            kept = place, opened, chosen
    if kept is None:
        raise first or ModelError(f"{name}: there is no file to open")
    return kept


def look_at(opened: Opened, cut: Cut) -> Candidate:
    """How many cells of a cut the gradient reaches, seen in numbers for made-up samples."""
    try:
        found = _gradient(opened, cut)
    except NoRule as error:
        return Candidate(cut, 0, f"{_UNRULED} {error}, which lies behind it")
    size = np.abs(found).mean(axis=cut.channel)
    if not size.max() > 0:
        return Candidate(cut, 0, _DEAD)
    reached = size > _NONE * size.max()
    if cut.tokens:
        reached = reached[:, slice(*cut.tokens)]
    cells = int(reached.reshape(len(reached), -1).sum(axis=1).max())
    if cells < 2:
        only = "one cell" if cells or not cut.tokens else "class or register tokens"
        return Candidate(cut, cells, f"the gradient reaches {only} only")
    return Candidate(cut, cells, "")


def _gradient(opened: Opened, cut: Cut) -> Array:
    """∂logit of the predicted class / ∂A, (n, …), of a few made-up samples."""
    build, graph = opened.build, opened.model.graph
    onehot = build.unary("Hardmax", opened.head.logits, axis=1)
    found = gradient(build, cut.value, opened.head.logits, onehot)
    found = build.unary("Identity", found)
    found.name = f"{cut.name}.gradient.{len(graph)}"  # it may be looked at twice
    kept = list(graph.outputs)
    graph.outputs[:] = [found]
    proto = ir.to_proto(opened.model)
    graph.outputs[:] = kept
    del proto.graph.value_info[:]
    n = opened.measured.batch or 3
    samples = samples_like(opened.given, n, opened.build.shapes[opened.given][1:], seed=1)
    (values,) = run(session(proto.SerializeToString()), {str(opened.given.name): samples})
    return np.asarray(values, np.float64)


def _named(opened: Opened, layer: str) -> Chosen:
    names = [cut.name for cut in opened.cuts]
    named = [modules(cut) for cut in opened.cuts]
    inside = [place for place, scopes in enumerate(named) if layer in scopes]
    if layer not in names and inside:
        layer = names[inside[-1]]  # the last tensor of a torch module
    if layer not in names:
        known = [*names, *set().union(*named)] if named else []
        close = get_close_matches(layer, known, n=3, cutoff=0.4) or names[-5:]
        raise ModelError(
            f"{opened.name} has no cut called '{layer}'; near it: {', '.join(close) or 'none'} "
            "(all of them: --list-cuts)"
        )
    candidate = look_at(opened, opened.cuts[names.index(layer)])
    if candidate.cells == 0:
        raise ModelError(f"{opened.name}: '{layer}' cannot be the target: {candidate.problem}")
    return Chosen(candidate.cut, "named by the user", [candidate])


def modules(cut: Cut) -> set[str]:
    """The torch modules that a tensor was made in, as torch's exporter notes them."""
    node = cut.value.producer()
    return _scopes(node) if node is not None else set()


def _scopes(node: ir.Node) -> set[str]:
    try:
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
    except (ValueError, SyntaxError):
        return set()
    return {str(scope) for scope in scopes[:-1] if scope} if isinstance(scopes, list) else set()


def _why(cut: Cut, passed: list[Candidate]) -> str:
    why = _WHY
    if passed:
        problems = sorted({candidate.problem for candidate in passed})
        why += (
            f", and the gradient reaches its cells ({len(passed)} behind it: {'; '.join(problems)})"
        )
    if cut.tokens:
        apart = cut.shape[cut.cells[0]] - (cut.tokens[1] - cut.tokens[0])
        why += f"; {apart} class or register tokens set apart"
    if cut.guess:
        why += f"; axis {cut.channel} is taken for the channels, which nothing in the graph says"
    return why


def _refusal(looked_at: list[Candidate]) -> str:
    if not looked_at:
        return (
            "there is no tensor with spatial cells through which everything passes, so there is "
            "nothing to make a heatmap of; a classifier with a convolution, or with tokens, has "
            "one, if its paths meet before they are pooled (those of an ensemble do not)"
        )
    listed = "; ".join(f"'{c.cut.name}': {c.problem}" for c in looked_at[:4])
    return f"no cut can be the target of a heatmap: {listed}"
