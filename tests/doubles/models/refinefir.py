"""Makes small random weights in ReFineFIR's released layout, and computes the published operations with them.

The operations follow the order of operations in JianWang-CMU/RefineFIR, and use only plain functions of torch. No
network of Likeness is used. Resampling is computed as published: insert zeros, pad, filter, keep every n-th value.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.nn import functional as F

from train.models.config import IrSeShape, StyleganConfig

State = dict[str, torch.Tensor]

SHAPE = StyleganConfig(size=64, limit=8, identity=16)
ENCODER = IrSeShape(widths=(64, 16, 16, 16), units=(1, 2, 1, 1))

_LEVELS = (8, 16, 32, 64)
_KERNEL = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64


def _draw(shapes: dict[str, tuple[int, ...]]) -> State:
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def make_generator() -> State:
    """Returns the state dict of a generator of 64 px with 8 channels at each level."""
    w, d = 8, SHAPE.identity
    shapes: dict[str, tuple[int, ...]] = {"decoder.input.input": (1, w, 4, 4)}
    for n in range(8):
        shapes |= {f"decoder.style.{n + 1}.weight": (w, w), f"decoder.style.{n + 1}.bias": (w,)}
    kernels = {}
    styled = ["decoder.conv1", *(f"decoder.convs.{n}" for n in range(8))]
    for name in styled:
        shapes |= {f"{name}.conv.weight": (1, w, w, 3, 3), f"{name}.noise.weight": (1,), f"{name}.activate.bias": (w,)}
        shapes |= {f"{name}.conv.modulation.weight": (w, w), f"{name}.conv.modulation.bias": (w,)}
    for name in ["decoder.fuser1", *(f"decoder.fuser.{n}" for n in range(8))]:
        shapes |= {f"{name}.conv.0.weight": (w, 2 * w, 3, 3), f"{name}.conv.0.bias": (w,)}
    for name in ["decoder.to_rgb1", *(f"decoder.to_rgbs.{n}" for n in range(4))]:
        shapes |= {f"{name}.conv.weight": (1, 3, w, 1, 1), f"{name}.bias": (1, 3, 1, 1)}
        shapes |= {f"{name}.conv.modulation.weight": (w, w), f"{name}.conv.modulation.bias": (w,)}
    for n, size in enumerate([4, *(size for size in _LEVELS for _ in range(2))]):
        shapes[f"decoder.noises.noise_{n}"] = (1, 1, size, size)
    shapes |= {"encoder.conv1.0.weight": (w, 6, 1, 1), "encoder.conv1.1.bias": (w,)}
    for n in range(4):
        shapes |= {f"encoder.convs.{n}.1.weight": (w, w, 3, 3), f"encoder.convs.{n}.2.bias": (w,)}
        kernels[f"encoder.convs.{n}.0.kernel"] = _KERNEL
        kernels[f"decoder.convs.{2 * n}.conv.blur.kernel"] = 4 * _KERNEL
        kernels[f"decoder.to_rgbs.{n}.upsample.kernel"] = 4 * _KERNEL
    for n, (before, after) in enumerate([(16 * w + d, w), (w, w), (w, w), (w, w), (w, 10 * w)]):
        shapes |= {f"encoder.fc.{n}.weight": (after, before), f"encoder.fc.{n}.bias": (after,)}
    return _draw(shapes) | kernels


def make_discriminator() -> State:
    """Returns the state dict of a discriminator of 64 px with 8 channels at each level."""
    w = 8
    shapes: dict[str, tuple[int, ...]] = {"convs.0.0.weight": (w, 3, 1, 1), "convs.0.1.bias": (w,)}
    kernels = {}
    for n in range(1, 5):
        shapes |= {f"convs.{n}.conv1.0.weight": (w, w, 3, 3), f"convs.{n}.conv1.1.bias": (w,)}
        shapes |= {f"convs.{n}.conv2.1.weight": (w, w, 3, 3), f"convs.{n}.conv2.2.bias": (w,)}
        shapes[f"convs.{n}.skip.1.weight"] = (w, w, 1, 1)
        kernels |= {f"convs.{n}.conv2.0.kernel": _KERNEL, f"convs.{n}.skip.0.kernel": _KERNEL}
    shapes |= {"final_conv.0.weight": (w, w + 1, 3, 3), "final_conv.1.bias": (w,)}
    shapes |= {"final_linear.0.weight": (w, 16 * w), "final_linear.0.bias": (w,)}
    shapes |= {"final_linear.1.weight": (1, w), "final_linear.1.bias": (1,)}
    return _draw(shapes) | kernels


def make_encoder() -> State:
    """Returns the state dict of a small identity encoder."""
    state: State = {}

    def norm(name: str, width: int) -> None:
        state.update({f"{name}.weight": 1 + torch.rand(width), f"{name}.bias": 0.1 * torch.randn(width)})
        state.update({f"{name}.running_mean": 0.1 * torch.randn(width), f"{name}.running_var": 0.5 + torch.rand(width)})
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def conv(name: str, outputs: int, inputs: int, kernel: int) -> None:
        state[f"{name}.weight"] = torch.randn(outputs, inputs, kernel, kernel) / (inputs * kernel**2) ** 0.5

    conv("input_layer.0", 64, 3, 3)
    norm("input_layer.1", 64)
    state["input_layer.2.weight"] = torch.rand(64)
    for n, (inputs, outputs) in enumerate([(64, 64), (64, 16), (16, 16), (16, 16), (16, 16)]):
        name = f"body.{n}"
        if inputs != outputs:
            conv(f"{name}.shortcut_layer.0", outputs, inputs, 1)
            norm(f"{name}.shortcut_layer.1", outputs)
        norm(f"{name}.res_layer.0", inputs)
        conv(f"{name}.res_layer.1", outputs, inputs, 3)
        state[f"{name}.res_layer.2.weight"] = torch.rand(outputs)
        conv(f"{name}.res_layer.3", outputs, outputs, 3)
        norm(f"{name}.res_layer.4", outputs)
        conv(f"{name}.res_layer.5.fc1", outputs // 16, outputs, 1)
        conv(f"{name}.res_layer.5.fc2", outputs, outputs // 16, 1)
    norm("output_layer.0", 16)
    state |= {"output_layer.3.weight": torch.randn(16, 16 * 49) / 28, "output_layer.3.bias": torch.randn(16)}
    norm("output_layer.4", 16)
    return state


def write_release(folder: Path, generator: State, encoder: State, alone: bool = False) -> Path:
    """Writes the two files of a release. With `alone`, `latest.pt` has only the tensors of the generator.

    Without `alone`, `latest.pt` has the layout of the authors' train.py.
    """
    folder.mkdir(exist_ok=True)
    options = argparse.Namespace(size=64, iter=800000, lr=0.002, refloss=True)
    whole = {"g": generator, "d": make_discriminator(), "g_optim": {"state": {}}, "args": options, "iter": 10}
    torch.save(generator if alone else whole, folder / "latest.pt")
    torch.save(encoder, folder / "model_ir_se50.pth", _use_new_zipfile_serialization=False)
    return folder


def _resample(x: torch.Tensor, kernel: torch.Tensor, up: int, down: int, before: int, after: int) -> torch.Tensor:
    b, c, h, w = x.shape
    wide = x.new_zeros(b, c, h * up, w * up)
    wide[:, :, ::up, ::up] = x
    wide = F.pad(wide, (before, after, before, after))
    out = F.conv2d(wide.flatten(0, 1)[:, None], kernel.flip(0, 1)[None, None])
    return out.view(b, c, *out.shape[2:])[:, :, ::down, ::down]


def _leak(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(x + bias.view(1, -1, *[1] * (x.ndim - 2)), 0.2) * 2**0.5


def _linear(s: State, name: str, x: torch.Tensor, leaks: bool = False) -> torch.Tensor:
    weight, bias = s[f"{name}.weight"], s[f"{name}.bias"]
    out = x @ weight.t() / weight.shape[1] ** 0.5
    return _leak(out, bias) if leaks else out + bias


def _conv(weight: torch.Tensor, x: torch.Tensor, stride: int = 1, padding: int = 0) -> torch.Tensor:
    return F.conv2d(x, weight / weight[0].numel() ** 0.5, stride=stride, padding=padding)


def _modulated(s: State, name: str, x: torch.Tensor, style: torch.Tensor, demodulate: bool = True) -> torch.Tensor:
    """Convolves each image with its own weights, one image after the other."""
    scales, images = _linear(s, f"{name}.modulation", style), []
    for image, scale in zip(x, scales, strict=True):
        weight = s[f"{name}.weight"][0] * scale[None, :, None, None] / s[f"{name}.weight"][0][0].numel() ** 0.5
        if demodulate:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if f"{name}.blur.kernel" in s:
            large = F.conv_transpose2d(image[None], weight.transpose(0, 1), stride=2)
            images.append(_resample(large, s[f"{name}.blur.kernel"], 1, 1, 1, 1))
        else:
            images.append(F.conv2d(image[None], weight, padding=weight.shape[-1] // 2))
    return torch.cat(images)


def _styled(s: State, name: str, x: torch.Tensor, style: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    x = _modulated(s, f"{name}.conv", x, style) + s[f"{name}.noise.weight"] * noise
    return _leak(x, s[f"{name}.activate.bias"])


def _fuse(s: State, name: str, decoded: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
    logits = _conv(s[f"{name}.conv.0.weight"], torch.cat([decoded, encoded], 1), padding=1)
    mask = torch.sigmoid(logits + s[f"{name}.conv.0.bias"][:, None, None])
    return mask * decoded + (1 - mask) * encoded


def generate(s: State, images: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
    """Returns the restored images (B,3,64,64). `images` (B,6,64,64) has the three channels of the LQ image, and then
    the three channels of the warped reference. All are in -1..1."""
    maps = [_leak(_conv(s["encoder.conv1.0.weight"], images), s["encoder.conv1.1.bias"])]
    for n in range(4):
        blurred = _resample(maps[0], s[f"encoder.convs.{n}.0.kernel"], 1, 1, 2, 2)
        small = _conv(s[f"encoder.convs.{n}.1.weight"], blurred, stride=2)
        maps.insert(0, _leak(small, s[f"encoder.convs.{n}.2.bias"]))
    style = torch.cat([maps[0].reshape(len(images), -1), identity], 1)
    for n in range(5):
        style = _linear(s, f"encoder.fc.{n}", style, leaks=True)
    styles = style.view(len(images), 10, 8)

    x = s["decoder.input.input"].repeat(len(images), 1, 1, 1)
    x = _styled(s, "decoder.conv1", x, styles[:, 0], s["decoder.noises.noise_0"])
    x = _fuse(s, "decoder.fuser1", x, maps[0])
    rgb = _modulated(s, "decoder.to_rgb1.conv", x, styles[:, 1], demodulate=False) + s["decoder.to_rgb1.bias"]
    at = 1
    for level in range(4):
        for n in (2 * level, 2 * level + 1):
            x = _styled(s, f"decoder.convs.{n}", x, styles[:, at + n % 2], s[f"decoder.noises.noise_{n + 1}"])
            x = _fuse(s, f"decoder.fuser.{n}", x, maps[level + 1])
        name = f"decoder.to_rgbs.{level}"
        skip = _resample(rgb, s[f"{name}.upsample.kernel"], 2, 1, 2, 1)
        rgb = _modulated(s, f"{name}.conv", x, styles[:, at + 2], demodulate=False) + s[f"{name}.bias"] + skip
        at += 2
    return rgb


def judge(s: State, images: torch.Tensor) -> torch.Tensor:
    """Returns the discriminator's logits (B,1) of images (B,3,64,64) in -1..1."""
    x = _leak(_conv(s["convs.0.0.weight"], images), s["convs.0.1.bias"])
    for n in range(1, 5):
        h = _leak(_conv(s[f"convs.{n}.conv1.0.weight"], x, padding=1), s[f"convs.{n}.conv1.1.bias"])
        h = _conv(s[f"convs.{n}.conv2.1.weight"], _resample(h, s[f"convs.{n}.conv2.0.kernel"], 1, 1, 2, 2), stride=2)
        thin = _conv(s[f"convs.{n}.skip.1.weight"], _resample(x, s[f"convs.{n}.skip.0.kernel"], 1, 1, 1, 1), stride=2)
        x = (_leak(h, s[f"convs.{n}.conv2.2.bias"]) + thin) / 2**0.5
    group = min(len(x), 4)
    spread = torch.empty(len(x))
    for start in range(len(x) // group):
        members = x[start :: len(x) // group]
        variance = (members - members.mean(0)).square().mean(0)
        spread[start :: len(x) // group] = (variance + 1e-8).sqrt().mean()
    x = torch.cat([x, spread.view(-1, 1, 1, 1).expand(-1, 1, 4, 4)], 1)
    x = _leak(_conv(s["final_conv.0.weight"], x, padding=1), s["final_conv.1.bias"])
    return _linear(s, "final_linear.1", _linear(s, "final_linear.0", x.flatten(1), leaks=True))


def encode_identity(s: State, images: torch.Tensor) -> torch.Tensor:
    """Returns the unit embeddings (B,16) of images (B,3,S,S) in -1..1. The images are made gray first."""

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        view = (1, -1, *[1] * (x.ndim - 2))
        mean, variance = s[f"{name}.running_mean"].view(view), s[f"{name}.running_var"].view(view)
        return (x - mean) / (variance + 1e-5).sqrt() * s[f"{name}.weight"].view(view) + s[f"{name}.bias"].view(view)

    def prelu(name: str, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 0, x, s[f"{name}.weight"].view(1, -1, 1, 1) * x)

    x = images.mean(1, keepdim=True).repeat(1, 3, 1, 1)
    x = F.adaptive_avg_pool2d(F.interpolate(x, (256, 256), mode="area")[:, :, 35:223, 32:220], (112, 112))
    x = prelu("input_layer.2", norm("input_layer.1", F.conv2d(x, s["input_layer.0.weight"], padding=1)))
    for n, stride in enumerate([2, 2, 1, 2, 2]):
        name = f"body.{n}"
        short = x[:, :, ::stride, ::stride]
        if f"{name}.shortcut_layer.0.weight" in s:
            short = norm(f"{name}.shortcut_layer.1", F.conv2d(short, s[f"{name}.shortcut_layer.0.weight"]))
        h = F.conv2d(norm(f"{name}.res_layer.0", x), s[f"{name}.res_layer.1.weight"], padding=1)
        h = F.conv2d(prelu(f"{name}.res_layer.2", h), s[f"{name}.res_layer.3.weight"], stride=stride, padding=1)
        h = norm(f"{name}.res_layer.4", h)
        means = h.mean((2, 3))
        for layer in ("fc1", "fc2"):
            means = means @ s[f"{name}.res_layer.5.{layer}.weight"][:, :, 0, 0].t()
            means = means.clamp(min=0) if layer == "fc1" else torch.sigmoid(means)
        x = h * means[:, :, None, None] + short
    x = norm("output_layer.0", x).reshape(len(x), -1)
    x = norm("output_layer.4", x @ s["output_layer.3.weight"].t() + s["output_layer.3.bias"])
    return x / x.norm(dim=1, keepdim=True)
