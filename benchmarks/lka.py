"""Compare large-kernel attention and VAN-B0 with a plain implementation: ordinary convolutions, NCHW."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import thoraxlib
from benchmarks.timing import Row, compare, repeated
from benchmarks.training import step

DEVICES = ("cpu", "cuda")
PACKAGES = ("timm",)
CONDITIONS = "224 px, batch 8"


class PlainLKA(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.conv_spatial = nn.Conv2d(channels, channels, 7, padding=9, dilation=3, groups=channels)
        self.conv1 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv1(self.conv_spatial(self.conv0(x)))


class PlainAttention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj_1 = nn.Conv2d(channels, channels, 1)
        self.spatial_gating_unit = PlainLKA(channels)
        self.proj_2 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.proj_2(self.spatial_gating_unit(F.gelu(self.proj_1(x))))


class PlainMLP(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.dwconv = nn.ModuleDict({"dwconv": nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)})
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.dwconv["dwconv"](self.fc1(x))))


class PlainBlock(nn.Module):
    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        self.layer_scale_1 = nn.Parameter(torch.ones(channels))
        self.layer_scale_2 = nn.Parameter(torch.ones(channels))
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.attn = PlainAttention(channels)
        self.mlp = PlainMLP(channels, channels * ratio)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.layer_scale_1[:, None, None] * self.attn(self.norm1(x))
        return x + self.layer_scale_2[:, None, None] * self.mlp(self.norm2(x))


class PlainVAN(nn.Module):
    """Plain VAN-B0 with pooling and a linear layer; parameters have the names of the library's model."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        widths, depths, ratios = (3, 32, 64, 160, 256), (3, 3, 5, 2), (8, 8, 4, 4)
        self.backbone, self.head = nn.ModuleDict(), nn.ModuleDict({"fc": nn.Linear(widths[-1], labels)})
        for stage, (depth, ratio) in enumerate(zip(depths, ratios, strict=True)):
            before, width = widths[stage : stage + 2]
            kernel, stride = (3, 2) if stage else (7, 4)
            embed = nn.Conv2d(before, width, kernel, stride, kernel // 2)
            self.backbone[f"patch_embed{stage + 1}"] = nn.ModuleDict({"proj": embed, "norm": nn.BatchNorm2d(width)})
            self.backbone[f"block{stage + 1}"] = nn.Sequential(*(PlainBlock(width, ratio) for _ in range(depth)))
            self.backbone[f"norm{stage + 1}"] = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        for stage in range(1, 5):
            embed = self.backbone[f"patch_embed{stage}"]
            x = self.backbone[f"block{stage}"](embed["norm"](embed["proj"](x)))
            n, c, h, w = x.shape
            x = self.backbone[f"norm{stage}"](x.flatten(2).transpose(1, 2))
            x = x.reshape(n, h, w, c).permute(0, 3, 1, 2).contiguous()
        return self.head["fc"](x.mean(dim=(2, 3)))


def run(device: torch.device) -> Iterator[Row]:
    torch.manual_seed(0)
    yield from _units(device)
    model, plain = _models(device)
    x = torch.randn(8, 3, 224, 224, device=device)
    fast = thoraxlib.optimize_for_inference(model)
    plain_forward, as_built, folded = (torch.inference_mode()(lambda net=net: net(x)) for net in (plain, model, fast))
    ours = {"as built": as_built, "optimize_for_inference": folded}
    for name, work in ours.items():
        same = f"{CONDITIONS}; outputs equal to {_difference(work(), plain_forward()):.0e}"
        row = f"VAN-B0 inference, {name}"
        yield compare(row, "plain, NCHW", work, plain_forward, target=1 / 1.5, conditions=same, pairs=7)
    for name, work in ours.items():
        half = torch.autocast(device.type, torch.bfloat16)(work)
        row = f"VAN-B0 inference, bfloat16 autocast, {name}"
        yield compare(row, "the same in float32", half, work, target=1.0, conditions=CONDITIONS, pairs=7)
    yield from _training(model.train(), plain.train(), x)


def _training(model: nn.Module, plain: nn.Module, x: Tensor) -> Iterator[Row]:
    targets = torch.rand(len(x), 14, device=x.device).round()
    with torch.no_grad():
        same = f"outputs equal to {_difference(model(x), plain(x)):.0e}"
    ours, theirs = step(model, x, targets), step(plain, x, targets)
    ours(), theirs()
    same += f", first gradients to {_difference(_gradients(model), _gradients(plain)):.0e}"
    conditions, row = f"{CONDITIONS}; {same}", "VAN-B0 training step"
    yield compare(f"{row}, AdamW", "plain, NCHW", ours, theirs, target=1 / 1.5, conditions=conditions, pairs=5)
    half = step(model, x, targets, torch.bfloat16)
    row = f"{row}, bfloat16 autocast"
    yield compare(row, "the same in float32", half, ours, target=1.0, conditions=CONDITIONS, pairs=5)


def _units(device: torch.device) -> Iterator[Row]:
    """Compare the unit alone, on the feature maps of VAN-B0's stages."""
    for channels, side in ((32, 56), (64, 28), (160, 14), (256, 7)):
        unit, plain = thoraxlib.layers.build("lka", in_channels=channels).to(device), PlainLKA(channels).to(device)
        plain.load_state_dict(unit.state_dict())
        x = torch.randn(8, channels, side, side, device=device)
        together = x.contiguous(memory_format=torch.channels_last)
        ours = torch.inference_mode()(lambda unit=unit, x=together: unit(x))
        theirs = torch.inference_mode()(lambda plain=plain, x=x: plain(x))
        conditions = f"{channels} channels, batch 8; outputs equal to {_difference(ours(), theirs()):.0e}"
        target = 1 / 2.5 if side < 28 else None
        row, works = f"LKA unit, {side} x {side}", [repeated(work, 5) for work in (ours, theirs)]
        yield compare(row, "plain, NCHW", *works, target=target, conditions=conditions)


def _models(device: torch.device) -> tuple[nn.Module, nn.Module]:
    """Build VAN-B0 of the library and the plain one with the same weights and with statistics in their norms."""
    model = thoraxlib.build("van", labels="nih14").to(device)
    for name, parameter in model.named_parameters():
        if "layer_scale" in name:
            nn.init.uniform_(parameter, 0.1, 1)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = 1.0
    with torch.no_grad():
        model(torch.randn(8, 3, 224, 224, device=device))
    plain = PlainVAN(14).to(device)
    plain.load_state_dict(model.state_dict())
    return model.eval(), plain.eval()


def _gradients(model: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for _, parameter in sorted(model.named_parameters())])


def _difference(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference, relative to the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())
