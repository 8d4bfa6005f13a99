"""Loads OSDFace's released weights as a restorer, for `--run osdface:FOLDER`.

FOLDER contains three files with the authors' names:

`pytorch_lora_weights.safetensors` has the adapters of the UNet. The alpha of the adapters is their rank, so their scale
is 1. `embedding_change_weights.pth` has the projection of the embedder. `associate_2.ckpt` is a Lightning checkpoint.
Only its tensors with the prefix `vqvae_LQ.` are read.

All sizes follow from the shapes of the tensors. `read_tensors` reads the pickled files without running their code.
"""

from __future__ import annotations

import collections
import pickle
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from manifests.errors import BadInput
from train.models.config import VreConfig
from train.models.prompts.vq import ATTENTION
from train.models.restorer import Restorer
from train.recipes.model_configs import build_model_config
from train.recipes.recipes import DIFFUSION, find_recipe

LORA = "pytorch_lora_weights.safetensors"
PROJECTION = "embedding_change_weights.pth"
EMBEDDER = "associate_2.ckpt"
TOKENS = 77  # from infer.py, because the tensors do not contain this number
EMBEDDER_PREFIX = "vqvae_LQ."
EMBEDDER_READ = ("encoder.", "quant_conv.", "quantize.embedding.")  # infer.py reads the same tensors

_ADAPTER = re.compile(
    r"(?:base_model\.model\.)?(?:unet\.)?(?P<module>.+)"
    r"\.(?:lora_(?P<letter>[AB])(?:\.default)?|lora\.(?P<word>down|up))\.weight"
)


def load_osdface(folder: Path, base_model: str) -> Restorer:
    """Returns a restorer with OSDFace's released weights in `folder`, in eval mode.

    `base_model` is the folder or hub name of Stable Diffusion 2.1-base. The restorer computes the same operations as
    the authors' infer.py with --merge_lora, including the doubly normalised input of the embedder. A square input that
    is not 512 px wide is resized to 512 px (bilinear, align_corners). An input that is not square keeps its size.

    One operation differs: the latent is the mode of the VAE's posterior, so the same photo always gives the same face.
    infer.py draws a random sample from the posterior.

    Do not save this restorer. A checkpoint does not contain the frozen UNet, into which the adapters are merged. Raises
    BadInput if a file is missing, has another layout or does not fit the base.
    """
    folder = Path(folder)
    for name in (LORA, PROJECTION, EMBEDDER):
        if not (folder / name).is_file():
            raise BadInput(f"{folder} lacks {name}: put OSDFace's {LORA}, {PROJECTION} and {EMBEDDER} there.")
    # Read the three files, and build a restorer with the sizes of their tensors.
    adapters = read_adapters(folder / LORA)
    embedder = read_embedder(folder / EMBEDDER)
    projection = read_tensors(folder / PROJECTION)
    recipe = replace(find_recipe("osdface", DIFFUSION), vre=embedder_config(embedder, folder / EMBEDDER))
    recipe = replace(recipe, lora_rank=max(len(down) for down, _ in adapters.values()))
    model = Restorer(build_model_config(recipe, 0, base_model), {"recipe": recipe.name, "released": "OSDFace"})
    # Load the embedder and the projection, and merge the adapters into the UNet.
    assert model.vre is not None
    _load(model.vre.dictionary, embedder, folder / EMBEDDER)
    _load(model.vre.projection, projection, folder / PROJECTION)
    unet: Any = next(module for module in model.base.modules() if isinstance(module, UNet2DConditionModel))
    merge(unet, adapters, folder / LORA, base_model)
    model.register_forward_pre_hook(_at_published_size)
    return model.eval()


def read_adapters(file: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Returns the LoRA matrices of each adapted module of the UNet: down (r, in, ...) and up (out, r, ...).

    In the file, the adapters are named lora_A and lora_B as in peft, or lora.down and lora.up as in diffusers. The
    prefix `unet.` is optional. Raises BadInput if a name has another form, if one of the two matrices is missing, or if
    their ranks differ.
    """
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{file} is not a readable safetensors file ({error}): copy it again.") from error
    halves: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        match = _ADAPTER.fullmatch(name)
        if match is None:
            raise BadInput(
                f"{file} has a tensor {name}, which is not a LoRA matrix of a UNet: take OSDFace's own file."
            )
        kind = match["word"] or {"A": "down", "B": "up"}[match["letter"]]
        halves.setdefault(match["module"], {})[kind] = tensor.float()
    for module, pair in halves.items():
        if len(pair) < 2 or len(pair["down"]) != pair["up"].shape[1]:
            raise BadInput(f"{file} has no matching pair of LoRA matrices for {module}: copy it again.")
    if not halves:
        raise BadInput(f"{file} contains no tensor: copy it again.")
    return {module: (pair["down"], pair["up"]) for module, pair in halves.items()}


@torch.no_grad()
def merge(
    unet: nn.Module, adapters: Mapping[str, tuple[torch.Tensor, torch.Tensor]], file: Path, base_model: str
) -> None:
    """Adds the matrix product up @ down to each weight that the adapters name.

    `unet` can have untrained adapters of its own, which add nothing. Raises BadInput if the UNet lacks a weight or has
    it in another shape.
    """
    weights = {
        name.removesuffix(".weight").removesuffix(".base_layer"): weight
        for name, weight in unet.named_parameters()
        if name.endswith(".weight") and ".lora_" not in name
    }
    for module, (down, up) in adapters.items():
        weight = weights.get(module)
        if weight is None or (len(up), *down.shape[1:]) != tuple(weight.shape):
            why = "lacks" if weight is None else "has in another shape"
            raise BadInput(
                f"{file} adapts {module}, which the UNet of {base_model} {why}: give Stable Diffusion 2.1-base as "
                "--base-model."
            )
        weight.add_((up.flatten(1) @ down.flatten(1)).view_as(weight))


def read_embedder(file: Path) -> dict[str, torch.Tensor]:
    """Returns the LQ dictionary in a Lightning checkpoint, as tensors for `VQ(config, decodes=False)`.

    Raises BadInput if the file cannot be read or has no encoder.
    """
    inside = {
        name.removeprefix(EMBEDDER_PREFIX): tensor
        for name, tensor in read_tensors(file, "state_dict").items()
        if name.startswith(EMBEDDER_PREFIX)
    }
    read = {name: tensor.float() for name, tensor in inside.items() if name.startswith(EMBEDDER_READ)}
    if not read:
        raise BadInput(f"{file} contains no {EMBEDDER_PREFIX}encoder: take OSDFace's own file.")
    return read


def embedder_config(tensors: Mapping[str, torch.Tensor], file: Path) -> VreConfig:
    """Returns the config of an embedder with these tensors. In OSDFace's layout, the level with
    attention has 16 px.

    Raises BadInput if a tensor of OSDFace's layout is missing.
    """
    try:
        channels = len(tensors["encoder.conv_in.weight"])
        codes, dim = tensors["quantize.embedding.weight"].shape
        levels = {int(name.split(".")[2]) for name in tensors if name.startswith("encoder.down.")}
        widths = [len(tensors[f"encoder.down.{level}.block.0.conv1.weight"]) for level in sorted(levels)]
    except (KeyError, ValueError) as error:
        raise BadInput(f"{file} is not an embedder in OSDFace's layout ({error}): take OSDFace's own file.") from error
    attending = {int(name.split(".")[2]) for name in tensors if ".attn." in name} or {max(levels)}
    return VreConfig(
        size=ATTENTION * 2 ** min(attending),
        channels=channels,
        multipliers=tuple(width // channels for width in widths),
        codes=codes,
        dim=dim,
        tokens=TOKENS,
        doubly_normalised=True,
    )


def read_tensors(file: Path, inside: str | None = None) -> dict[str, torch.Tensor]:
    """Returns the tensors of the state dict in a file of torch.save. Raises BadInput if the file cannot be read.

    `inside` is the key of the state dict, or None if the whole file is the state dict.

    No code of the file runs. First, torch.load tries to read the file with weights_only=True. The attempt fails for old
    Lightning files, because these files contain other classes than tensors. Such a file is read by our own unpickler,
    which rebuilds tensors and replaces every other class or function by a placeholder that does nothing.
    """
    try:
        try:
            read = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            read = torch.load(file, map_location="cpu", weights_only=False, pickle_module=_ONLY_TENSORS)
        state = read if inside is None else read[inside]
        tensors = {str(name): value for name, value in state.items() if isinstance(value, torch.Tensor)}
    except Exception as error:  # a broken or hostile file can raise any error
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise BadInput(f"{file} contains no readable tensors ({why}): take OSDFace's own file.") from error
    return tensors


class Placeholder:
    """Replaces classes and functions that an untrusted pickle names. A placeholder does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __new__(cls, *_: Any, **__: Any) -> Placeholder:
        return super().__new__(cls)

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, *_: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        pass

    def extend(self, _: Any) -> None:
        pass


_ALLOWED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
}


class _TensorUnpickler(pickle.Unpickler):
    """Rebuilds only tensors, dicts and pickle's basic types. torch.load itself reads the data of the tensors."""

    def find_class(self, module: str, name: str) -> Any:
        return _ALLOWED.get((module, name), Placeholder)


# torch.load uses `_ONLY_TENSORS` in place of the module `pickle`. An old file has several pickles in a row, and each
# call of `load` reads one of them.
_ONLY_TENSORS = SimpleNamespace(
    __name__="tensors only", Unpickler=_TensorUnpickler, load=lambda file, **named: _TensorUnpickler(file).load()
)


def _load(module: nn.Module, tensors: Mapping[str, torch.Tensor], file: Path) -> None:
    own = module.state_dict()
    if wrong := sorted(own.keys() ^ tensors.keys()):
        raise BadInput(
            f"{file} {'lacks' if wrong[0] in own else 'has an unknown'} tensor {wrong[0]}: take OSDFace's own file."
        )
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise BadInput(
                f"Tensor {name} of {file} has the shape {tuple(tensor.shape)} and should have the shape "
                f"{tuple(own[name].shape)}: take OSDFace's own file, and give SD 2.1-base as --base-model."
            )
    module.load_state_dict(tensors)


def _at_published_size(model: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    lq, *others = inputs
    size = model.config.size
    if lq.shape[-2] == lq.shape[-1] != size:
        lq = F.interpolate(lq, size=(size, size), mode="bilinear", align_corners=True)
    return (lq, *others)
