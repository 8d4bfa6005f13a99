"""Turns the recognizer of a dataset into a torch module for the identity loss."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from curate.faces.align import FFHQ_512, FFHQ_SIZE, compute_scale, fit_similarity, invert_affine, scale_template
from manifests.errors import ModelUnavailable

# The sides in pixels of the smallest and the largest feature map that the loss `identity_maps` compares (ours). The
# recognizers of insightface's packs have maps of 56, 28, 14 and 7 px.
MAP_SIDES = 4, 56


class Recognizer(nn.Module):
    """Computes unit embeddings of restored faces. The network is frozen, and gradients reach the faces.

    `facts` is the entry `recognizer` of the snapshot. `size` is the side of the recognizer's crop in pixels. `template`
    has the five points (5,2) in this crop. `mean` and `std` normalise pixel values of 0..255. With the precision
    "bf16", the network computes in bfloat16. The embeddings are always float32. `network` returns the embeddings and a
    tuple of feature maps (`add_maps`).
    """

    def __init__(self, network: nn.Module, facts: dict[str, Any], face_size: int, precision: str = "fp32") -> None:
        super().__init__()
        # On a CPU, the convolutions of common recognizers are twice as fast in the memory format channels_last.
        self.reduced = precision == "bf16"
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.mean, self.std = float(facts["mean"]), float(facts["std"])
        # The affine map from the face crop (FFHQ template, `face_size` px) to the recognizer's crop (`size` px).
        size = int(facts["size"])
        matrix = fit_similarity(
            scale_template(FFHQ_512, FFHQ_SIZE, face_size), np.asarray(facts["template"], np.float64)
        )
        # If the face is smaller in the recognizer's crop than in the face crop, the face crop is shrunk first, as in
        # curate.faces.align.warp.
        self.shrunk = min(face_size, max(1, round(face_size * compute_scale(matrix))))
        factor = face_size / self.shrunk
        back = invert_affine(matrix)
        back = np.hstack([back[:, :2], back[:, 2:] + 0.5]) / factor - np.array([[0, 0, 0.5], [0, 0, 0.5]])
        # The sampling grid (1,size,size,2): for each pixel of the recognizer's crop, its position in the shrunk face.
        y, x = np.mgrid[:size, :size].astype(np.float64)
        points = np.stack([x, y, np.ones_like(x)], -1) @ back.T
        grid = 2 * points / (self.shrunk - 1) - 1  # align_corners: -1 and 1 are the centres of the outer pixels
        self.grid: torch.Tensor
        self.register_buffer("grid", torch.tensor(grid, dtype=torch.float32)[None], persistent=False)
        # The same map as an affine matrix (3,3) between points whose corners are (-1,-1) and (1,1).
        half_crop, half_face = (size - 1) / 2, (self.shrunk - 1) / 2
        affine = np.eye(3)
        affine[:2, :2] = back[:, :2] * half_crop / half_face
        affine[:2, 2] = (back @ np.array([half_crop, half_crop, 1])) / half_face - 1
        self.affine: torch.Tensor
        self.register_buffer("affine", torch.tensor(affine, dtype=torch.float32), persistent=False)

    @property
    def has_maps(self) -> bool:
        """Whether the network has at least one map for `embed_with_maps`."""
        with torch.no_grad():
            return bool(self.network(torch.zeros(1, 3, *self.grid.shape[1:3], device=self.grid.device))[1])

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        """Returns unit embeddings (B,d) of faces (B,3,S,S) in 0..1, which are aligned to the FFHQ template."""
        return self.embed_with_maps(faces)[0]

    def embed_with_maps(
        self, faces: torch.Tensor, moves: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Returns the embeddings of faces, as `forward`, and the feature maps of `add_maps`.

        If `moves` is not None, each face has an affine matrix in `moves` (B,2,3) that moves its crop
        (`train.data.sampling.draw_identity_map`).
        """
        if faces.shape[-1] != self.shrunk:
            faces = F.interpolate(faces, (self.shrunk, self.shrunk), mode="area")
        grid = self.grid.expand(len(faces), -1, -1, -1)
        if moves is not None:
            last_row = moves.new_tensor([0.0, 0.0, 1.0]).expand(len(moves), 1, 3)
            moved = self.affine @ torch.cat([moves, last_row], dim=1)
            grid = F.affine_grid(moved[:, :2], [len(faces), 3, *self.grid.shape[1:3]], align_corners=True)
        crops = F.grid_sample(faces.clamp(0, 1), grid, padding_mode="reflection", align_corners=True)
        crops = ((crops * 255 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        with torch.autocast(crops.device.type, torch.bfloat16, enabled=self.reduced):
            embeddings, maps = self.network(crops)
        return F.normalize(embeddings.float()), maps


def load_recognizer(onnx_file: Path, facts: dict[str, Any], face_size: int, precision: str = "fp32") -> Recognizer:
    """Returns the recognizer of a snapshot for faces of `face_size` px. `precision` is fp32 or bf16.

    Raises ModelUnavailable if torch cannot run the ONNX file of the recognizer.
    """
    import onnx
    import onnx2torch

    try:
        # With a path as its argument, `convert` would write a file into the folder of the ONNX file. With the loaded
        # model, `convert` writes nothing.
        network = add_maps(freeze(onnx2torch.convert(onnx.load(str(onnx_file)))), int(facts["size"]))
    except Exception as error:  # onnx and onnx2torch raise many kinds of errors
        raise ModelUnavailable(
            f"{onnx_file} cannot be turned into a torch module for the identity loss ({error}): give --no-identity to "
            "train without this loss."
        ) from error
    return Recognizer(network, facts, face_size, precision)


def freeze(network: fx.GraphModule) -> fx.GraphModule:
    """Makes a network faster, in place, and returns the network. The network must not be trained afterwards.

    Each batch norm is joined with the convolution before it. Each PReLU becomes a FrozenPRelu, because torch's PReLU
    computes the gradient of its slopes. Without these two changes, the recognizer takes 1.5 times as long on a CPU
    (measured). Each depthwise convolution with a stride becomes a Float32Conv.
    """
    from onnx2torch.node_converters.activations import OnnxPReLU

    network.eval()
    modules = dict(network.named_modules())
    for node in [node for node in network.graph.nodes if node.op == "call_module"]:
        # The first argument of a node of these layers is the node before. `cast` is for the type checker.
        name, module, inputs = str(node.target), modules[str(node.target)], cast("tuple[Any, ...]", node.args)
        before = inputs[0]
        if isinstance(module, nn.BatchNorm2d) and before.op == "call_module" and len(before.users) == 1:
            if isinstance(convolution := modules[before.target], nn.Conv2d):
                modules[before.target] = fuse_conv_bn_eval(convolution, module)
                network.add_submodule(before.target, modules[before.target])
                node.replace_all_uses_with(before)
                network.graph.erase_node(node)
        elif isinstance(module, OnnxPReLU) and inputs[1].op == "get_attr":
            slopes = operator.attrgetter(inputs[1].target)(network)
            if slopes.ndim == 3 and slopes.shape[1:] == (1, 1):  # one slope for each channel
                network.add_submodule(name, FrozenPRelu(slopes))
                node.args = inputs[:1]
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d) and module.groups > 1 and max(module.stride) > 1:
            network.add_submodule(name, Float32Conv(module))
    network.graph.eliminate_dead_code()
    network.recompile()
    return network


def add_maps(network: fx.GraphModule, size: int) -> fx.GraphModule:
    """Makes a network return a tuple of feature maps beside its output, in place, and returns the network.

    `size` is the side of the network's input (B,3,size,size). A map (B,C,h,w) has a side from MAP_SIDES[0] to
    MAP_SIDES[1]. Of all maps with the same side, the tuple has the last one. The map with the largest side comes first.
    """
    ShapeProp(network).propagate(torch.zeros(1, 3, size, size))
    maps = dict[int, fx.Node]()
    for node in network.graph.nodes:
        shape = tuple[int, ...](getattr(node.meta.get("tensor_meta"), "shape", ()))
        if len(shape) == 4 and MAP_SIDES[0] <= shape[-1] <= MAP_SIDES[1] and shape[-1] == shape[-2]:
            maps[shape[-1]] = node
    (output,) = (node for node in network.graph.nodes if node.op == "output")
    result = output.args[0]
    output.args = (
        (result[0] if isinstance(result, tuple) else result, tuple(maps[side] for side in sorted(maps)[::-1])),
    )
    network.recompile()
    return network


class Float32Conv(nn.Module):
    """Runs a convolution in float32, also under autocast.

    The class is for depthwise convolutions with a stride. On a CPU, their backward pass takes ten times as long in bf16
    as in float32 (measured with torch 2.11).
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Returns the output of the convolution as float32, for values (B,C,h,w) of any precision."""
        with torch.autocast(values.device.type, enabled=False):
            return cast("torch.Tensor", self.convolution(values.float()))


class FrozenPRelu(nn.Module):
    """Multiplies negative values by the slope of their channel, like PReLU. The slopes (C,1,1) are not trained."""

    def __init__(self, slopes: torch.Tensor) -> None:
        super().__init__()
        self.slopes: torch.Tensor
        self.register_buffer("slopes", slopes.detach().clone())

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Returns (B,C,h,w) for `values` (B,C,h,w)."""
        return _FrozenPRelu.apply(values, self.slopes.to(values.dtype))


class _FrozenPRelu(torch.autograd.Function):
    """Computes PReLU. The backward pass computes only the gradient of the values, not that of the slopes."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(values, slopes)
        return F.prelu(values, slopes.flatten())

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        values, slopes = ctx.saved_tensors
        # `positive` is the gradient where the value is positive, and zero elsewhere. torch.where would take five times
        # as long.
        positive = torch.ops.aten.threshold_backward(gradient, values, 0)
        return torch.addcmul(gradient * slopes, positive, 1 - slopes), None
