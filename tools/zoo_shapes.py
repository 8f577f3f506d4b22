"""Classifiers as people write them, for the zoo: heads, pools, wrappers and outputs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 5
Maker = Callable[[], nn.Module]


def options(model: nn.Module) -> dict[str, Any]:
    """What a shape asks for: output, as_is."""
    return dict(getattr(model, "zoo", {}))


class Backbone(nn.Sequential):
    """Three convolutions: (N, 3, 32, 32) to (N, 24, 8, 8)."""

    def __init__(self, norm: Callable[[int], nn.Module] = nn.BatchNorm2d, last: int = 24) -> None:
        layers: list[nn.Module] = []
        for before, after, stride in ((3, 8, 1), (8, 16, 2), (16, last, 2)):
            layers += [nn.Conv2d(before, after, 3, stride, 1), norm(after), nn.ReLU()]
        super().__init__(*layers)


class Net(nn.Module):
    """A backbone and what a function makes of its map; ``parts`` are the layers of that function."""

    def __init__(
        self, head: Callable[..., Any], *, backbone: nn.Module | None = None, **parts: Any
    ) -> None:
        super().__init__()
        self.backbone = backbone or Backbone()
        self.head = head
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.head(self, self.backbone(x))


class Out(NamedTuple):
    """A named tuple of two."""

    logits: Tensor
    features: Tensor


class LayerNormFirst(nn.Module):
    """Over the channels of a channels-first map, as ConvNeXt has it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.ones(channels)),
            nn.Parameter(torch.zeros(channels)),
        )

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt((x - mean).pow(2).mean(1, keepdim=True) + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class Gem(nn.Module):
    """Generalised mean pool."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor([3.0]))

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x.clamp(min=1e-3).pow(self.p), x.shape[-2:]).pow(1 / self.p)


class Squeeze(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, channels // 4), nn.Linear(channels // 4, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean((2, 3))))))
        return x * gate.view(len(x), -1, 1, 1)


class Cbam(nn.Module):
    """Channel and spatial attention."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Conv2d(channels, 6, 1), nn.ReLU(), nn.Conv2d(6, channels, 1))
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        pools = F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)
        x = x * torch.sigmoid(self.mlp(pools[0]) + self.mlp(pools[1]))
        both = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.conv(both))


class Recurrent(nn.Module):
    """A CRNN: columns of the map as a sequence."""

    def __init__(self, kind: type[nn.Module], **settings: Any) -> None:
        super().__init__()
        self.backbone, self.fc = Backbone(), nn.Linear(16 * (2 if settings else 1), CLASSES)
        self.rnn = kind(24 * 8, 16, batch_first=True, **settings)

    def forward(self, x: Tensor) -> Tensor:
        x = self.backbone(x)
        x = x.permute(0, 3, 1, 2).flatten(2)
        return self.fc(self.rnn(x)[0][:, -1])


def _fc(inside: int = 24, out: int = CLASSES) -> nn.Linear:
    return nn.Linear(inside, out)


def _pooled(f: Tensor) -> Tensor:
    return f.mean((2, 3))


def _gap(**more: Any) -> nn.Module:
    return Net(lambda s, f: s.fc(_pooled(f)), fc=_fc(), **more)


def _ending(end: Callable[[Tensor], Any], out: int = CLASSES) -> nn.Module:
    return Net(lambda s, f: end(s.fc(_pooled(f))), fc=_fc(24, out))


def _with(middle: nn.Module, inside: int = 24) -> nn.Module:
    return Net(lambda s, f: s.fc(_pooled(s.middle(f))), fc=_fc(inside), middle=middle)


def _attention_pool(s: Any, f: Tensor) -> Tensor:
    tokens = f.flatten(2).transpose(1, 2)
    return s.fc((s.score(tokens).softmax(1) * tokens).sum(1))


def _arcface(s: Any, f: Tensor) -> Tensor:
    return 16 * F.linear(F.normalize(_pooled(f)), F.normalize(s.fc.weight))


def _frozen() -> nn.Module:
    model = _gap()
    for parameter in model.backbone.parameters():
        parameter.requires_grad_(False)
    return model


def _mha(s: Any, f: Tensor) -> Tensor:
    tokens = f.flatten(2).transpose(1, 2)
    return s.fc(s.attend(tokens, tokens, tokens)[0].mean(1))


IMAGE: dict[str, Maker] = {
    "pool and linear": _gap,
    "flatten and linear": lambda: Net(lambda s, f: s.fc(f.flatten(1)), fc=_fc(24 * 64)),
    "flatten and two linear": lambda: Net(lambda s, f: s.fc(F.relu(s.a(f.flatten(1)))), a=_fc(1536, 32), fc=_fc(32)),
    "view by len(x)": lambda: Net(lambda s, f: s.fc(f.view(len(f), -1)), fc=_fc(1536)),
    "view by size(0)": lambda: Net(lambda s, f: s.fc(f.reshape(f.size(0), -1)), fc=_fc(1536)),
    "adaptive pool to 3": lambda: Net(lambda s, f: s.fc(F.adaptive_avg_pool2d(f, 4).flatten(1)), fc=_fc(384)),
    "max pool": lambda: Net(lambda s, f: s.fc(F.adaptive_max_pool2d(f, 1).flatten(1)), fc=_fc()),
    "max and mean": lambda: Net(lambda s, f: s.fc(torch.cat([f.amax((2, 3)), _pooled(f)], 1)), fc=_fc(48)),
    "GeM": lambda: Net(lambda s, f: s.fc(s.gem(f).flatten(1)), gem=Gem(), fc=_fc()),
    "log-sum-exp pool": lambda: Net(lambda s, f: s.fc(torch.logsumexp(f, (2, 3))), fc=_fc()),
    "attention pool": lambda: Net(_attention_pool, score=nn.Linear(24, 1), fc=_fc()),
    "multi-head attention": lambda: Net(_mha, attend=nn.MultiheadAttention(24, 4, batch_first=True), fc=_fc()),
    "transformer layer": lambda: Net(
        lambda s, f: s.fc(s.layer(f.flatten(2).transpose(1, 2)).mean(1)),
        layer=nn.TransformerEncoderLayer(24, 4, 48, batch_first=True), fc=_fc()),
    "1×1 convolution, then pool": lambda: Net(lambda s, f: _pooled(s.c(f)), c=nn.Conv2d(24, CLASSES, 1)),
    "(N, C, 1, 1)": lambda: Net(lambda s, f: s.c(F.adaptive_avg_pool2d(f, 1)), c=nn.Conv2d(24, CLASSES, 1)),
    "bilinear pool": lambda: Net(lambda s, f: s.fc(torch.einsum("nkhw,nchw->nkc", f, f).flatten(1) / 64), fc=_fc(576)),
    "einsum head": lambda: Net(lambda s, f: torch.einsum("nkhw,ck->nc", f, s.fc.weight) / 64, fc=_fc()),
    "squeeze and excitation": lambda: _with(Squeeze(24)),
    "CBAM": lambda: _with(Cbam(24)),
    "transposed convolution": lambda: _with(nn.ConvTranspose2d(24, 12, 3, 2, 1, output_padding=1), 12),
    "upsampled, nearest": lambda: _with(nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(24, 24, 3), nn.ReLU())),
    "upsampled, bilinear": lambda: _with(nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(24, 24, 3))),
    "pixel shuffle": lambda: _with(nn.Sequential(nn.PixelShuffle(2), nn.Conv2d(6, 24, 3))),
    "reflection pad": lambda: _with(nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(24, 24, 3))),
    "same padding": lambda: _with(nn.Conv2d(24, 24, 4, padding="same")),
    "unfold": lambda: Net(lambda s, f: s.fc(F.unfold(f, 4, stride=4).mean(2)), fc=_fc(384)),
    "InstanceNorm": lambda: _gap(backbone=Backbone(lambda c: nn.InstanceNorm2d(c, affine=True))),
    "GroupNorm": lambda: _gap(backbone=Backbone(lambda c: nn.GroupNorm(4, c))),
    "GroupNorm before the pool": lambda: _with(nn.GroupNorm(4, 24)),
    "LayerNorm, channels first": lambda: _with(LayerNormFirst(24)),
    "no norm, ELU": lambda: _with(nn.Sequential(nn.Conv2d(24, 24, 3), nn.ELU())),
    "dropout": lambda: Net(lambda s, f: s.fc(s.d(_pooled(f))), d=nn.Dropout(0.5), fc=_fc()),
    "weight norm": lambda: _with(nn.utils.parametrizations.weight_norm(nn.Conv2d(24, 24, 3))),
    "spectral norm": lambda: _with(nn.utils.parametrizations.spectral_norm(nn.Conv2d(24, 24, 3))),
    "ArcFace": lambda: Net(_arcface, fc=_fc()),
    "temperature": lambda: _ending(lambda y: y / 0.07),
    "softmax": lambda: _ending(lambda y: y.softmax(1)),
    "log-softmax": lambda: _ending(lambda y: y.log_softmax(1)),
    "sigmoid": lambda: _ending(torch.sigmoid),
    "one logit": lambda: _ending(lambda y: y, 1),
    "one probability": lambda: _ending(torch.sigmoid, 1),
    "one logit, squeezed": lambda: _ending(lambda y: y.squeeze(1), 1),
    "tuple": lambda: Net(lambda s, f: (s.fc(_pooled(f)), f), fc=_fc()),
    "dict": lambda: Net(lambda s, f: {"logits": s.fc(_pooled(f)), "map": f}, fc=_fc()),
    "named tuple": lambda: Net(lambda s, f: Out(s.fc(_pooled(f)), f), fc=_fc()),
    "list of one": lambda: _ending(lambda y: [y]),
    "frozen backbone": _frozen,
    "LSTM": lambda: Recurrent(nn.LSTM),
    "GRU, both ways": lambda: Recurrent(nn.GRU, bidirectional=True),
}  # fmt: skip


def shapes() -> dict[str, Callable[[], tuple[nn.Module, Tensor]]]:
    """Every shape by its name."""
    found: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
        f"code:{name}": lambda make=make: (make(), torch.randn(2, 3, 32, 32))
        for name, make in IMAGE.items()
    }
    found |= {f"code:{name}": make for name, make in OTHERS.items()}
    return found


def _wave() -> tuple[nn.Module, Tensor]:
    layers = [nn.Conv1d(1, 8, 9, 4), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(4), nn.Conv1d(8, 16, 3), nn.ReLU(),
              nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, CLASSES)]  # fmt: skip
    return nn.Sequential(*layers), torch.randn(2, 1, 800)


def _volume() -> tuple[nn.Module, Tensor]:
    layers = [nn.Conv3d(1, 8, 3, 2), nn.BatchNorm3d(8), nn.ReLU(), nn.Conv3d(8, 12, 3), nn.ReLU(),
              nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(12, CLASSES)]  # fmt: skip
    return nn.Sequential(*layers), torch.randn(2, 1, 16, 16, 16)


def _known(make: Callable[[nn.Module], Any]) -> tuple[nn.Module, Tensor]:
    model = _gap().eval()
    return make(model), torch.randn(2, 3, 32, 32)


def _lstm_only() -> tuple[nn.Module, Tensor]:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.fc = nn.LSTM(10, 16, batch_first=True), nn.Linear(16, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.rnn(x)[0][:, -1])

    return Words(), torch.randn(2, 20, 10)


def _rows_only() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, CLASSES)), torch.randn(2, 12)


OTHERS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "1-D convolutions": _wave,
    "3-D convolutions": _volume,
    "half precision": lambda: _known(lambda m: m.half()),
    "train mode": lambda: _known(lambda m: m.train()),
    "DataParallel": lambda: _known(nn.DataParallel),
    "compiled": lambda: _known(torch.compile),
    "TorchScript": lambda: _known(lambda m: torch.jit.trace(m, torch.randn(2, 3, 32, 32))),
    "LSTM alone": _lstm_only,
    "rows alone": _rows_only,
}
