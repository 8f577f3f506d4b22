"""The target layer is found by what the logits depend on, not by what modules are called."""

import pytest
import torch
from dripgate.training.layer import choose_layer, find_layer
from torch import Tensor, nn
from torch.nn import functional

from dripgate.errors import ModelError
from dripgate.training import nets

torch.set_num_threads(1)
IMAGES = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Skip(nn.Module):
    """Two paths that meet behind the last spatial layer of each: no layer is a full cut."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 3)
        self.right = nn.Conv2d(3, 4, 5)
        self.unused = nn.Conv2d(3, 4, 1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.left(x), self.right(x)]
        self.unused(x)
        return self.fc(torch.cat([functional.relu(m).mean((2, 3)) for m in maps], 1))


class InPlace(nn.Module):
    """What the layers give is overwritten at once, and not idempotently."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x.mul_(0.5)
        out = self.second(x)
        out += x
        return self.fc(out.mean((2, 3)))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared, self.never = (nn.Conv2d(i, 4, 3) for i in (3, 4, 4))
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.shared(self.shared(self.stem(x)).relu()).mean((2, 3)))


class TokensOnly(nn.Module):
    """A vision transformer on flattened patches, without a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(48, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        patches = functional.unfold(x, 4, stride=4).transpose(1, 2)
        return self.fc(self.block(self.embed(patches)).mean(1))


def _sequential(*head: nn.Module) -> nn.Sequential:
    features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    return _sized(nn.Sequential(features, *head, nn.Flatten(), nn.LazyLinear(5)), IMAGES)


def _sized(model: nn.Sequential, example: Tensor) -> nn.Sequential:
    model(example)  # sizes the lazy layer
    return model


@pytest.mark.parametrize(
    ("arch", "name", "shape"),
    [("resnet8", "3", (64, 8, 8)), ("lenet", "4", (16, 16, 16)), ("dscnn", "26", (64, 17, 17))],
)
def test_reference_nets(arch, name, shape):
    target = choose_layer(nets.NETS[arch]((3, 32, 32), 10), torch.randn(4, 3, 32, 32))
    assert (target.name, target.shape) == (name, shape)
    assert "everything the logits depend on" in target.why


@pytest.mark.parametrize(
    ("head", "name"),
    [
        ([nn.AdaptiveAvgPool2d(1)], "0"),  # the outermost of two with the same tensor
        ([nn.MaxPool2d(2), nn.Dropout(), nn.Identity()], "0"),
        ([nn.Sequential(nn.Conv2d(4, 6, 3), nn.MaxPool2d(2))], "1.0"),  # ends in a pool
        ([nn.Conv2d(4, 6, 14), nn.ReLU()], "0"),  # what follows has one cell
    ],
)
def test_pools_and_single_cells_are_no_target(head, name):
    assert choose_layer(_sequential(*head), IMAGES).name == name


def test_one_dimensional_net_is_a_map_of_height_one():
    signals = torch.randn(3, 2, 20)
    layers = nn.Conv1d(2, 6, 5), nn.BatchNorm1d(6), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)
    target = choose_layer(_sized(nn.Sequential(*layers), signals), signals)
    assert (target.name, target.shape) == ("2", (6, 1, 16))


def test_without_a_full_cut_the_last_layer_with_a_gradient_says_so():
    target = choose_layer(Skip(), IMAGES)
    assert target.name == "right"
    assert "no single layer carries everything" in target.why


def test_cut_is_seen_through_layers_that_overwrite_their_input():
    assert choose_layer(InPlace(), IMAGES).name == "first"


def test_layer_that_runs_twice_is_passed_over_and_refused():
    assert choose_layer(Twice(), IMAGES).name == "stem"
    with pytest.raises(ModelError, match=r"'shared' runs 2 times, expected once; usable.*: stem$"):
        find_layer(Twice(), "shared", IMAGES)
    with pytest.raises(ModelError, match="'never' runs 0 times"):
        find_layer(Twice(), "never", IMAGES)


@pytest.mark.parametrize(
    ("model", "seen"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(768, 9), nn.ReLU(), nn.Linear(9, 5)), "Sequential"),
        (TokensOnly(), "TokensOnly"),
    ],
)
def test_model_without_a_spatial_layer_is_refused(model, seen):
    with pytest.raises(ModelError, match=f"{seen} has no spatial layer.*Linear.*use a model with"):
        choose_layer(model, IMAGES)


def test_named_layer_is_found_wherever_it_is_usable():
    target = find_layer(_sequential(nn.AdaptiveAvgPool2d(1)), "0.0", IMAGES)
    assert (target.name, target.shape, target.why) == ("0.0", (4, 14, 14), "named by the user")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "righ",
            "no layer called 'righ'; did you mean right.*; usable layers of Skip: left, right",
        ),
        ("fc", r"'fc' \(Linear\) gives float32 \(5, 5\), expected.*; usable layers"),
        ("unused", "no gradient flows from the logits to layer 'unused'"),
        ("", "no layer called ''"),
    ],
)
def test_unusable_name_is_refused_with_the_usable_ones(name, message):
    with pytest.raises(ModelError, match=message):
        find_layer(Skip(), name, IMAGES)


def test_model_is_left_as_it_was():
    model = _sequential(nn.Dropout(), nn.AdaptiveAvgPool2d(1))
    model.train()
    model[0][1].eval()
    model[0][0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    choose_layer(model, IMAGES)
    find_layer(model, "0", IMAGES)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [m.training for m in model[0]] == [True, False, True]
    assert [p.requires_grad for p in model[0].parameters()] == [False, True, True, True]
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3)), r"gives float32 \(5, 4, 14, 14\) for 5 samples"),
        (nn.Sequential(nn.Conv2d(1, 4, 3)), r"cannot take float32 \(5, 3, 16, 16\)"),
        (nn.LSTM(16, 4), "LSTM cannot take"),
    ],
)
def test_what_is_no_classifier_of_this_input_is_refused(model, found):
    with pytest.raises(ModelError, match=found) as caught:
        choose_layer(model, IMAGES)
    assert "\n" not in str(caught.value)
