"""More classifiers as people write them, for the zoo: blocks, activations, inputs, heads, wrappers.

tools/zoo_shapes.py has the heads and pools; here is what stands before and around them. Each is a
whole small classifier with random weights.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from zoo_shapes import CLASSES, Backbone, Maker, Net, _fc, _gap, _pooled, _with

Built = tuple[nn.Module, Tensor]


class Fn(nn.Module):
    """A function as a module; ``parts`` are its layers."""

    def __init__(self, run: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def _conv(inside: int, out: int, kernel: int = 3, **more: Any) -> nn.Sequential:
    more.setdefault("padding", kernel // 2)
    return nn.Sequential(nn.Conv2d(inside, out, kernel, **more), nn.BatchNorm2d(out), nn.ReLU())


def _block(run: Callable[..., Tensor], out: int = 24, **parts: Any) -> nn.Module:
    """A classifier whose last block is this one."""
    return _with(Fn(run, **parts), out)


def _act(layer: nn.Module) -> nn.Module:
    return _with(nn.Sequential(nn.Conv2d(24, 24, 3, padding=1), layer))


def _before(run: Callable[..., Tensor], **parts: Any) -> nn.Module:
    """A classifier that prepares its input itself."""
    return nn.Sequential(Fn(run, **parts), _gap())


def _head(run: Callable[..., Any], **parts: Any) -> nn.Module:
    return Net(run, **parts)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "SiLU": nn.SiLU, "GELU": nn.GELU, "GELU by tanh": lambda: nn.GELU("tanh"), "Hardswish": nn.Hardswish,
    "Mish": nn.Mish, "PReLU": lambda: nn.PReLU(24), "LeakyReLU": lambda: nn.LeakyReLU(0.1), "SELU": nn.SELU,
    "CELU": nn.CELU, "ReLU6": nn.ReLU6, "Hardtanh": nn.Hardtanh, "Softplus": nn.Softplus, "Softsign": nn.Softsign,
    "Tanh": nn.Tanh, "Sigmoid": nn.Sigmoid, "Hardsigmoid": nn.Hardsigmoid, "LogSigmoid": nn.LogSigmoid,
    "Tanhshrink": nn.Tanhshrink, "Softshrink": nn.Softshrink, "Hardshrink": nn.Hardshrink,
    "Threshold": lambda: nn.Threshold(0.1, 0.0), "ReLU squared": lambda: Fn(lambda s, x: F.relu(x) ** 2),
    "x · sigmoid(1.702 x)": lambda: Fn(lambda s, x: x * torch.sigmoid(1.702 * x)),
    "sin": lambda: Fn(lambda s, x: torch.sin(x)), "GLU": lambda: nn.Sequential(nn.Conv2d(24, 48, 1), nn.GLU(1)),
    "maxout": lambda: Fn(lambda s, x: torch.maximum(s.a(x), s.b(x)), a=nn.Conv2d(24, 24, 1), b=nn.Conv2d(24, 24, 1)),
}  # fmt: skip

BLOCKS: dict[str, Maker] = {
    "residual": lambda: _block(lambda s, x: F.relu(x + s.c(x)), c=_conv(24, 24)),
    "residual, projected": lambda: _block(lambda s, x: F.relu(s.p(x) + s.c(x)), 32, c=_conv(24, 32, stride=2), p=nn.Conv2d(24, 32, 1, 2)),
    "pre-activation": lambda: _block(lambda s, x: x + s.c(F.relu(s.n(x))), n=nn.BatchNorm2d(24), c=nn.Conv2d(24, 24, 3, padding=1)),
    "inverted residual": lambda: _block(lambda s, x: x + s.c(x), c=nn.Sequential(_conv(24, 48, 1), _conv(48, 48, groups=48), nn.Conv2d(48, 24, 1))),
    "dense block": lambda: _block(lambda s, x: torch.cat([x, s.a(x), s.b(torch.cat([x, s.a(x)], 1))], 1), 40, a=_conv(24, 8), b=_conv(32, 8)),
    "inception block": lambda: _block(lambda s, x: torch.cat([s.a(x), s.b(x), F.max_pool2d(x, 3, 1, 1)], 1), 40, a=_conv(24, 8, 1), b=_conv(24, 8, 5)),
    "fire": lambda: _block(lambda s, x: torch.cat([s.a(s.q(x)), s.b(s.q(x))], 1), 32, q=_conv(24, 8, 1), a=_conv(8, 16, 1), b=_conv(8, 16)),
    "channel shuffle": lambda: _block(lambda s, x: s.c(x).view(len(x), 4, 6, 8, 8).transpose(1, 2).reshape(len(x), 24, 8, 8), c=_conv(24, 24, groups=4)),
    "nn.ChannelShuffle": lambda: _with(nn.Sequential(_conv(24, 24, groups=4), nn.ChannelShuffle(4))),
    "split and concatenate": lambda: _block(lambda s, x: torch.cat([s.c(x[:, :12]), x[:, 12:]], 1), c=_conv(12, 12)),
    "chunk": lambda: _block(lambda s, x: (lambda a, b: torch.cat([s.c(a), b], 1))(*x.chunk(2, 1)), c=_conv(12, 12)),
    "ghost": lambda: _block(lambda s, x: torch.cat([s.a(x), s.b(s.a(x))], 1), a=_conv(24, 12, 1), b=_conv(12, 12, groups=12)),
    "dilated": lambda: _with(_conv(24, 24, dilation=2, padding=2)),
    "asymmetric": lambda: _with(nn.Sequential(nn.Conv2d(24, 24, (1, 3), padding=(0, 1)), nn.Conv2d(24, 24, (3, 1), padding=(1, 0)), nn.ReLU())),
    "blur pool": lambda: _block(lambda s, x: F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), s.k, stride=2, groups=24), k=nn.Parameter(torch.ones(24, 1, 3, 3) / 9)),
    "replication pad": lambda: _with(nn.Sequential(nn.ReplicationPad2d(1), nn.Conv2d(24, 24, 3), nn.ReLU())),
    "circular pad": lambda: _with(nn.Sequential(nn.Conv2d(24, 24, 3, padding=1, padding_mode="circular"), nn.ReLU())),
    "ceil-mode pool": lambda: _with(nn.MaxPool2d(3, 2, ceil_mode=True)),
    "average pool, padded": lambda: _with(nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
    "Lp pool": lambda: _with(nn.LPPool2d(2, 2)),
    "feature pyramid": lambda: _block(lambda s, x: s.a(x) + F.interpolate(s.b(F.max_pool2d(x, 2)), size=(8, 8)), a=_conv(24, 24, 1), b=_conv(24, 24, 1)),
    "atrous pyramid": lambda: _block(lambda s, x: s.p(torch.cat([s.a(x), s.b(x), x.mean((2, 3), keepdim=True).expand(-1, -1, 8, 8)], 1)), a=_conv(24, 8, 1), b=_conv(24, 8, dilation=2, padding=2), p=_conv(40, 24, 1)),
    "U-Net encoder and decoder": lambda: _block(lambda s, x: torch.cat([x, s.u(s.d(x))], 1), 36, d=_conv(24, 32, stride=2), u=nn.ConvTranspose2d(32, 12, 2, 2)),
    "selective kernel": lambda: _block(lambda s, x: (lambda a, b, w: w[:, :1, None, None] * a + w[:, 1:, None, None] * b)(s.a(x), s.b(x), s.w(x.mean((2, 3))).softmax(1)), a=_conv(24, 24), b=_conv(24, 24, 5), w=nn.Linear(24, 2)),
    "ECA": lambda: _block(lambda s, x: x * torch.sigmoid(s.c(x.mean((2, 3))[:, None])).transpose(1, 2)[..., None], c=nn.Conv1d(1, 1, 3, padding=1)),
    "coordinate attention": lambda: _block(lambda s, x: x * torch.sigmoid(s.h(x.mean(3, keepdim=True))) * torch.sigmoid(s.w(x.mean(2, keepdim=True))), h=nn.Conv2d(24, 24, 1), w=nn.Conv2d(24, 24, 1)),
    "non-local": lambda: _block(lambda s, x: x + (s.v(x).flatten(2) @ (s.q(x).flatten(2).transpose(1, 2) @ s.k(x).flatten(2)).softmax(-1).transpose(1, 2)).view_as(x), q=nn.Conv2d(24, 8, 1), k=nn.Conv2d(24, 8, 1), v=nn.Conv2d(24, 24, 1)),
    "layer scale": lambda: _block(lambda s, x: x + s.g * s.c(x), c=_conv(24, 24), g=nn.Parameter(0.1 * torch.ones(24, 1, 1))),
    "local response norm": lambda: _with(nn.LocalResponseNorm(5)),
    "RMS norm over channels": lambda: _block(lambda s, x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6)),
    "nn.LayerNorm over the map": lambda: _with(nn.LayerNorm([24, 8, 8])),
    "LayerNorm by permute": lambda: _block(lambda s, x: s.n(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), n=nn.LayerNorm(24)),
    "frozen batch norm": lambda: _block(lambda s, x: s.c(x) * s.scale + s.shift, c=nn.Conv2d(24, 24, 3, padding=1), scale=nn.Parameter(torch.rand(1, 24, 1, 1)), shift=nn.Parameter(torch.rand(1, 24, 1, 1))),
    "batch norm without affine": lambda: _with(nn.Sequential(nn.Conv2d(24, 24, 3), nn.BatchNorm2d(24, affine=False))),
    "weight standardisation": lambda: _block(lambda s, x: F.conv2d(x, (s.c.weight - s.c.weight.mean((1, 2, 3), keepdim=True)) / (s.c.weight.std((1, 2, 3), keepdim=True) + 1e-5), s.c.bias), c=nn.Conv2d(24, 24, 3)),
    "space to depth": lambda: _with(nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(96, 24, 1))),
    "space to depth by view": lambda: _block(lambda s, x: s.c(x.view(len(x), 24, 4, 2, 4, 2).permute(0, 3, 5, 1, 2, 4).reshape(len(x), 96, 4, 4)), c=_conv(96, 24, 1)),
    "focus by slices": lambda: _block(lambda s, x: s.c(torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)), c=_conv(96, 24, 1)),
    "cyclic shift": lambda: _block(lambda s, x: s.c(torch.roll(x, (1, 1), (2, 3))), c=_conv(24, 24, 1)),
    "dynamic convolution of two": lambda: _block(lambda s, x: (lambda w: w[:, 0, None, None, None] * s.a(x) + w[:, 1, None, None, None] * s.b(x))(s.w(x.mean((2, 3))).softmax(1)), a=_conv(24, 24), b=_conv(24, 24), w=nn.Linear(24, 2)),
    "stochastic depth": lambda: _block(lambda s, x: x + (s.c(x) * torch.bernoulli(torch.full((len(x), 1, 1, 1), 0.8)) if s.training else s.c(x)), c=_conv(24, 24)),
    "gradient checkpointing": lambda: _block(lambda s, x: torch.utils.checkpoint.checkpoint(s.c, x, use_reentrant=False), c=_conv(24, 24)),
    "spatial dropout": lambda: _with(nn.Dropout2d(0.3)),
}  # fmt: skip

INPUTS: dict[str, Maker] = {
    "normalises itself": lambda: _before(lambda s, x: (x - s.mean) / s.std, mean=nn.Parameter(torch.rand(3, 1, 1)), std=nn.Parameter(torch.rand(3, 1, 1) + 0.5)),
    "divides by 255": lambda: _before(lambda s, x: x / 255),
    "2 x - 1": lambda: _before(lambda s, x: x * 2 - 1),
    "standardises each picture": lambda: _before(lambda s, x: (x - x.mean((1, 2, 3), keepdim=True)) / (x.std((1, 2, 3), keepdim=True) + 1e-5)),
    "resizes": lambda: _before(lambda s, x: F.interpolate(x, size=(48, 48), mode="bilinear", align_corners=False)),
    "crops": lambda: _before(lambda s, x: x[:, :, 2:-2, 2:-2]),
    "grey to three": lambda: _before(lambda s, x: x.mean(1, keepdim=True).repeat(1, 3, 1, 1)),
    "turns BGR": lambda: _before(lambda s, x: x[:, [2, 1, 0]]),
    "flips": lambda: _before(lambda s, x: torch.flip(x, (3,))),
    "adds coordinates": lambda: nn.Sequential(Fn(lambda s, x: torch.cat([x, s.grid.expand(len(x), -1, -1, -1)], 1), grid=nn.Parameter(torch.rand(1, 2, 32, 32))), nn.Conv2d(5, 3, 1), _gap()),
    "one-sided pad": lambda: _before(lambda s, x: F.pad(x, (0, 1, 0, 1))),
    "clamps": lambda: _before(lambda s, x: x.clamp(-1, 1)),
}  # fmt: skip

HEADS: dict[str, Maker] = {
    "three linear with dropout": lambda: _head(lambda s, f: s.m(_pooled(f)), m=nn.Sequential(_fc(24, 32), nn.ReLU(), nn.Dropout(), _fc(32, 16), nn.GELU(), _fc(16))),
    "batch norm before linear": lambda: _head(lambda s, f: s.fc(s.n(_pooled(f))), n=nn.BatchNorm1d(24), fc=_fc()),
    "layer norm before linear": lambda: _head(lambda s, f: s.fc(s.n(_pooled(f))), n=nn.LayerNorm(24), fc=_fc()),
    "linear without bias": lambda: _head(lambda s, f: s.fc(_pooled(f)), fc=nn.Linear(24, CLASSES, bias=False)),
    "low-rank linear": lambda: _head(lambda s, f: s.b(s.a(_pooled(f))), a=nn.Linear(24, 4, bias=False), b=_fc(4)),
    "LoRA": lambda: _head(lambda s, f: s.fc(_pooled(f)) + 0.5 * s.b(s.a(_pooled(f))), fc=_fc(), a=nn.Linear(24, 2, bias=False), b=nn.Linear(2, CLASSES, bias=False)),
    "prototypes by distance": lambda: _head(lambda s, f: -((_pooled(f)[:, None] - s.fc.weight[None]) ** 2).sum(2), fc=_fc()),
    "prototypes by cdist": lambda: _head(lambda s, f: -torch.cdist(_pooled(f), s.fc.weight), fc=_fc()),
    "cosine similarity": lambda: _head(lambda s, f: 10 * F.cosine_similarity(_pooled(f)[:, None], s.fc.weight[None], dim=2), fc=_fc()),
    "mixture of two experts": lambda: _head(lambda s, f: (lambda h, g: g[:, :1] * s.a(h) + g[:, 1:] * s.b(h))(_pooled(f), s.g(_pooled(f)).softmax(1)), a=_fc(), b=_fc(), g=_fc(24, 2)),
    "ensemble of two heads": lambda: _head(lambda s, f: (s.a(_pooled(f)) + s.b(_pooled(f))) / 2, a=_fc(), b=_fc()),
    "multi-sample dropout": lambda: _head(lambda s, f: torch.stack([s.fc(F.dropout(_pooled(f), 0.5, s.training)) for _ in range(3)]).mean(0), fc=_fc()),
    "two maps, one vector": lambda: _head(lambda s, f: s.fc(torch.cat([_pooled(f), _pooled(s.c(f))], 1)), c=_conv(24, 8), fc=_fc(32)),
    "spatial pyramid pool": lambda: _head(lambda s, f: s.fc(torch.cat([F.adaptive_avg_pool2d(f, n).flatten(1) for n in (1, 2, 4)], 1)), fc=_fc(24 * 21)),
    "variance pool": lambda: _head(lambda s, f: s.fc(torch.cat([_pooled(f), f.var((2, 3))], 1)), fc=_fc(48)),
    "top-k pool": lambda: _head(lambda s, f: s.fc(f.flatten(2).topk(8, 2).values.mean(2)), fc=_fc()),
    "mean, then sum": lambda: _head(lambda s, f: s.fc(f.mean(3).sum(2)), fc=_fc()),
    "mean by hand": lambda: _head(lambda s, f: s.fc(f.sum((2, 3)) / (f.shape[2] * f.shape[3])), fc=_fc()),
    "mean of mean": lambda: _head(lambda s, f: s.fc(f.mean(-1).mean(-1)), fc=_fc()),
    "pool of the map's size": lambda: _head(lambda s, f: s.fc(F.avg_pool2d(f, f.shape[2:])[:, :, 0, 0]), fc=_fc()),
    "convolution of the map's size": lambda: _head(lambda s, f: s.c(f).flatten(1), c=nn.Conv2d(24, CLASSES, 8)),
    "squeeze twice": lambda: _head(lambda s, f: s.fc(F.adaptive_avg_pool2d(f, 1).squeeze(-1).squeeze(-1)), fc=_fc()),
    "NetVLAD": lambda: _head(lambda s, f: (lambda t, a: s.fc(F.normalize((torch.einsum("nlk,nlc->nkc", a, t) - a.sum(1)[..., None] * s.c).flatten(1))))(f.flatten(2).transpose(1, 2), s.a(f).flatten(2).transpose(1, 2).softmax(2)), a=nn.Conv2d(24, 4, 1), c=nn.Parameter(torch.rand(4, 24)), fc=_fc(96)),
    "class activation pool": lambda: _head(lambda s, f: (s.c(f) * s.a(f).flatten(2).softmax(2).view(-1, 1, 8, 8)).sum((2, 3)), c=nn.Conv2d(24, CLASSES, 1), a=nn.Conv2d(24, 1, 1)),
    "noisy-or of cells": lambda: _head(lambda s, f: s.c(f).flatten(2).logsumexp(2), c=nn.Conv2d(24, CLASSES, 1)),
    "class token": lambda: _head(lambda s, f: s.fc(s.l(torch.cat([s.t.expand(len(f), -1, -1), f.flatten(2).transpose(1, 2)], 1))[:, 0]), t=nn.Parameter(torch.rand(1, 1, 24)), l=nn.TransformerEncoderLayer(24, 4, 48, batch_first=True), fc=_fc()),
    "class and register tokens": lambda: _head(lambda s, f: s.fc(s.l(torch.cat([s.t.expand(len(f), -1, -1), f.flatten(2).transpose(1, 2)], 1))[:, 0]), t=nn.Parameter(torch.rand(1, 5, 24)), l=nn.TransformerEncoderLayer(24, 4, 48, batch_first=True), fc=_fc()),
    "query attention": lambda: _head(lambda s, f: s.fc(s.a(s.q.expand(len(f), -1, -1), f.flatten(2).transpose(1, 2), f.flatten(2).transpose(1, 2))[0][:, 0]), q=nn.Parameter(torch.rand(1, 1, 24)), a=nn.MultiheadAttention(24, 4, batch_first=True), fc=_fc()),
    "one query per class": lambda: _head(lambda s, f: s.fc(s.a(s.q.expand(len(f), -1, -1), f.flatten(2).transpose(1, 2), f.flatten(2).transpose(1, 2))[0])[..., 0], q=nn.Parameter(torch.rand(1, CLASSES, 24)), a=nn.MultiheadAttention(24, 4, batch_first=True), fc=_fc(24, 1)),
    "mixer": lambda: _head(lambda s, f: (lambda t: s.fc((t + s.m(t.transpose(1, 2)).transpose(1, 2)).mean(1)))(f.flatten(2).transpose(1, 2)), m=nn.Sequential(nn.Linear(64, 32), nn.GELU(), nn.Linear(32, 64)), fc=_fc()),
    "scaled dot product": lambda: _head(lambda s, f: (lambda t: s.fc(F.scaled_dot_product_attention(t, t, t).mean(1)))(f.flatten(2).transpose(1, 2)), fc=_fc()),
    "linear attention": lambda: _head(lambda s, f: (lambda t: s.fc((F.elu(t) + 1) @ ((F.elu(t) + 1).transpose(1, 2) @ t) / 64).mean(1))(f.flatten(2).transpose(1, 2)), fc=_fc()),
    "matrix norm head": lambda: _head(lambda s, f: s.fc(F.normalize(torch.sign(_pooled(f)) * torch.sqrt(_pooled(f).abs() + 1e-6))), fc=_fc()),
    "logit scale, exp": lambda: _head(lambda s, f: s.t.exp() * s.fc(F.normalize(_pooled(f))), t=nn.Parameter(torch.tensor(1.0)), fc=_fc()),
    "tanh on logits": lambda: _head(lambda s, f: 30 * torch.tanh(s.fc(_pooled(f)) / 30), fc=_fc()),
    "adjusted by priors": lambda: _head(lambda s, f: s.fc(_pooled(f)) + s.p.log(), fc=_fc(), p=nn.Parameter(torch.rand(CLASSES))),
    "softmax with a temperature": lambda: _head(lambda s, f: (s.fc(_pooled(f)) / 2).softmax(-1), fc=_fc()),
    "softmax by hand": lambda: _head(lambda s, f: (lambda e: e / e.sum(1, keepdim=True))(torch.exp(s.fc(_pooled(f)))), fc=_fc()),
    "two logits of one": lambda: _head(lambda s, f: (lambda z: torch.cat([-z, z], 1))(s.fc(_pooled(f))), fc=_fc(24, 1)),
    "deep supervision": lambda: _head(lambda s, f: {"logits": s.fc(_pooled(f)), "aux": s.a(_pooled(f))}, fc=_fc(), a=_fc()),
    "logits and embedding": lambda: _head(lambda s, f: (s.fc(_pooled(f)), _pooled(f)), fc=_fc()),
    "kernels of Gauss": lambda: _head(lambda s, f: s.fc(torch.exp(-((_pooled(f)[:, None] - s.c) ** 2).sum(2))), c=nn.Parameter(torch.rand(12, 24)), fc=_fc(12)),
}  # fmt: skip


def _vit(pool: str) -> Callable[[], Built]:
    def run(s: Any, x: Tensor) -> Tensor:
        t = s.patch(x).flatten(2).transpose(1, 2)
        if pool == "class":
            t = torch.cat([s.token.expand(len(t), -1, -1), t], 1)
        t = s.norm(s.layers(t + s.place[:, : t.shape[1]]))
        return s.fc(t[:, 0] if pool == "class" else t.mean(1))

    def make() -> Built:
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
        parts = {
            "patch": nn.Conv2d(3, 32, 8, 8), "token": nn.Parameter(torch.rand(1, 1, 32)),
            "place": nn.Parameter(torch.rand(1, 17, 32)), "norm": nn.LayerNorm(32), "fc": _fc(32),
            "layers": nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
        }  # fmt: skip
        return Fn(run, **parts), torch.randn(2, 3, 32, 32)

    return make


def _sequence(*layers: nn.Module, shape: tuple[int, ...] = (6, 128)) -> Callable[[], Built]:
    return lambda: (copy.deepcopy(nn.Sequential(*layers)), torch.randn(2, *shape))


def _around(make: Callable[[nn.Module], nn.Module]) -> Callable[[], Built]:
    return lambda: (make(_gap().eval()), torch.randn(2, 3, 32, 32))


def _recording() -> Built:
    """Spectrogram by two convolutions with fixed kernels, as many write it for export."""
    n = torch.arange(64)
    waves = 2 * torch.pi * n[None] * torch.arange(33)[:, None] / 64
    net = nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES))  # fmt: skip

    def run(s: Any, x: Tensor) -> Tensor:
        real, imaginary = (F.conv1d(x[:, None], k[:, None], stride=32) for k in (s.cos, s.sin))
        return s.net(torch.log(real**2 + imaginary**2 + 1e-6)[:, None])

    module = Fn(run, cos=nn.Parameter(waves.cos()), sin=nn.Parameter(waves.sin()), net=net)
    return module, torch.randn(2, 1600)


_TAIL = (nn.AdaptiveAvgPool1d(1), nn.Flatten())
OTHERS: dict[str, Callable[[], Built]] = {
    "ViT, class token": _vit("class"),
    "ViT, mean of tokens": _vit("mean"),
    "series: three convolutions": _sequence(nn.Conv1d(6, 16, 8), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 16, 5), nn.ReLU(), *_TAIL, nn.Linear(16, CLASSES)),
    "series: dilated, causal": _sequence(nn.ConstantPad1d((4, 0), 0), nn.Conv1d(6, 16, 3, dilation=2), nn.ReLU(), *_TAIL, nn.Linear(16, CLASSES)),
    "series: separable": _sequence(nn.Conv1d(6, 6, 5, groups=6), nn.Conv1d(6, 16, 1), nn.Hardswish(), nn.MaxPool1d(2), nn.Conv1d(16, 16, 3), nn.SiLU(), *_TAIL, nn.Linear(16, CLASSES)),
    "series: flattened": _sequence(nn.Conv1d(6, 8, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 31, CLASSES)),
    "series: last step": lambda: (Fn(lambda s, x: s.fc(s.c(x)[:, :, -1]), c=nn.Sequential(nn.Conv1d(6, 16, 5), nn.ReLU(), nn.Conv1d(16, 16, 100)), fc=_fc(16)), torch.randn(2, 6, 128)),
    "series: transformer": lambda: (Fn(lambda s, x: s.fc(s.l(s.e(x.transpose(1, 2))).mean(1)), e=nn.Linear(6, 24), l=nn.TransformerEncoderLayer(24, 4, 48, batch_first=True), fc=_fc()), torch.randn(2, 6, 40)),
    "recording: spectrogram inside": _recording,
    "recording: squeezed input": lambda: (Fn(lambda s, x: s.n(x.unsqueeze(1)), n=nn.Sequential(nn.Conv1d(1, 8, 16, 8), nn.ReLU(), nn.Conv1d(8, 16, 8, 4), nn.ReLU(), *_TAIL, nn.Linear(16, CLASSES))), torch.randn(2, 1600)),
    "spectrogram (N, T, F)": lambda: (Fn(lambda s, x: s.n(x.unsqueeze(1)), n=nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES))), torch.randn(2, 49, 10)),
    "channels last in": lambda: (Fn(lambda s, x: s.n(x.permute(0, 3, 1, 2)), n=_gap()), torch.randn(2, 32, 32, 3)),
    "batch of crops": lambda: (Fn(lambda s, x: s.n(x.flatten(0, 1)).view(-1, 2, CLASSES).mean(1), n=_gap()), torch.randn(2, 2, 3, 32, 32)),
    "siamese, one picture": lambda: (Fn(lambda s, x: s.n(x) + s.n(torch.flip(x, (3,))), n=_gap()), torch.randn(2, 3, 32, 32)),
    "ensemble of two nets": lambda: (Fn(lambda s, x: (s.a(x) + s.b(x)) / 2, a=_gap(), b=_gap()), torch.randn(2, 3, 32, 32)),
    "bfloat16": _around(lambda m: m.bfloat16()),
    "double": _around(lambda m: m.double()),
    "averaged model": _around(lambda m: torch.optim.swa_utils.AveragedModel(m)),
    "scripted": _around(lambda m: torch.jit.script(nn.Sequential(Backbone(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), _fc()).eval())),
    "channels-last memory": _around(lambda m: m.to(memory_format=torch.channels_last)),
    "fx graph": lambda: (torch.fx.symbolic_trace(nn.Sequential(Backbone(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), _fc()).eval()), torch.randn(2, 3, 32, 32)),
    "hooked": _around(lambda m: (m.backbone.register_forward_hook(lambda *_: None), m)[1]),
    "pruned": _around(lambda m: (prune.l1_unstructured(m.fc, "weight", 0.5), m)[1]),
    "nested outputs": lambda: (Net(lambda s, f: (s.fc(_pooled(f)), {"map": f}), fc=_fc()), torch.randn(2, 3, 32, 32)),
}  # fmt: skip


def shapes() -> dict[str, Callable[[], Built]]:
    """Every one by its name."""
    pictures = {
        f"activation {name}": (lambda make=make: _act(make())) for name, make in ACTIVATIONS.items()
    }
    pictures |= BLOCKS | {f"input: {name}": make for name, make in INPUTS.items()} | HEADS
    found: dict[str, Callable[[], Built]] = {
        f"code:{name}": lambda make=make: (make(), torch.randn(2, 3, 32, 32))
        for name, make in pictures.items()
    }
    return found | {f"code:{name}": make for name, make in OTHERS.items()}
