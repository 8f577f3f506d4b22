"""The target is found by what the gradient does, and a refusal says what there is."""

from needs import need

need("torch")

import numpy as np
import pytest
import support
import torch
from torch import Tensor, nn
from torch.nn import functional

from dripgate.errors import ModelError
from dripgate.graph.target import choose_target
from dripgate.training import nets

torch.set_num_threads(1)


class Skip(nn.Module):
    """Two paths that meet behind the last spatial layer of each: no cut between."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 5), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.left(x), self.right(x)]
        return self.fc(torch.cat([functional.relu(m).mean((2, 3)) for m in maps], 1))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.shared(self.shared(self.stem(x)).relu()).mean((2, 3)))


def _sequential(*head: nn.Module) -> nn.Sequential:
    features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    model = nn.Sequential(features, *head, nn.Flatten(), nn.LazyLinear(5))
    model(torch.zeros(2, 3, 16, 16))  # sizes the lazy layer
    return model


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("arch", "sizes"), [("resnet8", (64, 8, 8)), ("lenet", (16, 16, 16)), ("dscnn", (64, 17, 17))]
)
def test_reference_nets(arch, sizes):
    target = choose_target(support.opened(nets.NETS[arch]((3, 32, 32), 10), (3, 32, 32)))
    assert target.cut.sizes == sizes
    assert "through which everything passes" in target.why


@pytest.mark.parametrize(
    ("head", "sizes"),
    [
        ([nn.AdaptiveAvgPool2d(1)], (4, 14, 14)),
        ([nn.MaxPool2d(2), nn.Dropout(), nn.Identity()], (4, 14, 14)),
        ([nn.Sequential(nn.Conv2d(4, 6, 3), nn.MaxPool2d(2))], (6, 12, 12)),  # ends in a pool
        ([nn.Conv2d(4, 6, 14), nn.ReLU()], (4, 14, 14)),  # what follows has one cell
    ],
)
def test_pools_and_single_cells_are_no_target(head, sizes):
    assert choose_target(support.opened(_sequential(*head), (3, 16, 16))).cut.sizes == sizes


def test_a_layer_that_runs_twice_is_the_last_time_it_runs():
    opened = support.opened(Twice(), (3, 16, 16))
    assert choose_target(opened, "shared").cut.sizes == (4, 10, 10)
    assert choose_target(opened, "stem").cut.sizes == (4, 14, 14)
    assert choose_target(opened, "stem").why == "named by the user"


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(768, 9), nn.ReLU(), nn.Linear(9, 5)),
        Skip(),
    ],
)
def test_model_without_a_cut_is_refused(model):
    with pytest.raises(ModelError, match="no tensor with spatial cells through which") as caught:
        choose_target(support.opened(model, (3, 16, 16)))
    assert "\n" not in str(caught.value)


def test_a_name_that_is_none_is_refused_with_those_near_it():
    opened = support.opened(Twice(), (3, 16, 16))
    with pytest.raises(ModelError, match=r"no cut called 'sharde'; near it: shared.*--list-cuts"):
        choose_target(opened, "sharde")


def test_class_token_behind_the_last_block_is_passed_over():
    """Only one cell has a gradient where the class is read off one token."""
    model = support.onnx_model(
        """(float[N, 5, 6] x) => (float[N, 4] y) { a = MatMul (x, w) r = Relu (a)
        s = Softmax <axis = 1> (r) t = Mul (s, r) u = MatMul (t, v)
        q = ReduceSum <keepdims = 1> (u, one) j = Add (r, q) k = MatMul (j, v)
        c = Gather <axis = 1> (k, zero) y = MatMul (c, m) }""",
        w=support.floats(6, 6), v=support.floats(6, 6, seed=1), m=support.floats(6, 4, seed=2),
        zero=np.array(0), one=np.array([1]),
    )  # fmt: skip
    chosen = choose_target(support.opened(model, (5, 6)))
    assert chosen.cut.name == "r"
    assert "the gradient reaches one cell only" in chosen.why
    assert (chosen.cut.channel, chosen.cut.sizes) == (2, (6, 1, 5))
