"""OSDFace's released weights as a restorer: `--run osdface:FOLDER`.

Three files, as the authors name them: pytorch_lora_weights.safetensors (adapters of the UNet, alpha = rank, so they
join at scale 1), embedding_change_weights.pth (the projection) and associate_2.ckpt (a Lightning checkpoint, of which
only `vqvae_LQ.` is read). Sizes are inferred from the tensors. No pickle here can run code: see `tensors_of`.
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
from train.recipes import DIFFUSION, build_model_config, find_recipe

LORA = "pytorch_lora_weights.safetensors"
PROJECTION = "embedding_change_weights.pth"
EMBEDDER = "associate_2.ckpt"
TOKENS = 77  # infer.py; no tensor says it
EMBEDDER_PREFIX = "vqvae_LQ."
EMBEDDER_READ = ("encoder.", "quant_conv.", "quantize.embedding.")  # infer.py leaves the rest of the file unread, too

_ADAPTER = re.compile(
    r"(?:base_model\.model\.)?(?:unet\.)?(?P<module>.+)"
    r"\.(?:lora_(?P<letter>[AB])(?:\.default)?|lora\.(?P<word>down|up))\.weight"
)


def load_osdface(folder: Path, base_model: str) -> Restorer:
    """OSDFace's released weights in `folder` on Stable Diffusion 2.1-base in `base_model`, in eval mode.

    The order of operations is that of the authors' infer.py with --merge_lora, its doubly normalised embedder input
    included: a square input that is not 512 px is resized to it (bilinear, align_corners), any other stays as it is.
    One thing differs: the latent is the mode of the VAE's posterior, where infer.py draws a sample, so that the same
    photo gives the same face. The adapters are merged into the frozen UNet, so what this returns restores but is not to
    be saved. Raises BadInput where a file is missing, of another layout or not for this base.
    """
    folder = Path(folder)
    for name in (LORA, PROJECTION, EMBEDDER):
        if not (folder / name).is_file():
            raise BadInput(f"{folder} lacks {name}: put OSDFace's {LORA}, {PROJECTION} and {EMBEDDER} there.")
    adapters = read_adapters(folder / LORA)
    embedder = read_embedder(folder / EMBEDDER)
    projection = tensors_of(folder / PROJECTION)
    recipe = replace(find_recipe("osdface", DIFFUSION), vre=embedder_config(embedder, folder / EMBEDDER))
    recipe = replace(recipe, lora_rank=max(len(down) for down, _ in adapters.values()))
    model = Restorer(build_model_config(recipe, 0, base_model), {"recipe": recipe.name, "released": "OSDFace"})
    assert model.vre is not None
    _load(model.vre.dictionary, embedder, folder / EMBEDDER)
    _load(model.vre.projection, projection, folder / PROJECTION)
    unet: Any = next(module for module in model.base.modules() if isinstance(module, UNet2DConditionModel))
    merge(unet, adapters, folder / LORA, base_model)
    model.register_forward_pre_hook(_at_published_size)
    return model.eval()


def read_adapters(file: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """LoRA matrices by the UNet's module: down (r, in, ...) and up (out, r, ...), in either style of names.

    Styles are peft's lora_A, lora_B and diffusers' lora.down, lora.up, with or without `unet.` before them. Raises
    BadInput for any other name, and where one of a pair is missing or the ranks differ.
    """
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{file} is no safetensors file that can be read ({error}): copy it again.") from error
    halves: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        match = _ADAPTER.fullmatch(name)
        if match is None:
            raise BadInput(f"{file} has a tensor {name}, which is no LoRA matrix of a UNet: take OSDFace's own file.")
        kind = match["word"] or {"A": "down", "B": "up"}[match["letter"]]
        halves.setdefault(match["module"], {})[kind] = tensor.float()
    for module, pair in halves.items():
        if len(pair) < 2 or len(pair["down"]) != pair["up"].shape[1]:
            raise BadInput(f"{file} has no matching pair of LoRA matrices for {module}: copy it again.")
    if not halves:
        raise BadInput(f"{file} holds no tensor: copy it again.")
    return {module: (pair["down"], pair["up"]) for module, pair in halves.items()}


@torch.no_grad()
def merge(
    unet: nn.Module, adapters: Mapping[str, tuple[torch.Tensor, torch.Tensor]], file: Path, base_model: str
) -> None:
    """Add up @ down to the weights that the adapters name. Raises BadInput where the UNet has none such.

    `unet` may have adapters of its own, whose ups are zero as they are new.
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
            raise BadInput(f"{file} adapts {module}, which the UNet of {base_model} {why}: name SD 2.1-base.")
        weight.add_((up.flatten(1) @ down.flatten(1)).view_as(weight))


def read_embedder(file: Path) -> dict[str, torch.Tensor]:
    """The LQ dictionary in a Lightning checkpoint: tensors of `VQ(config, decodes=False)`. Raises BadInput."""
    inside = {
        name.removeprefix(EMBEDDER_PREFIX): tensor
        for name, tensor in tensors_of(file, "state_dict").items()
        if name.startswith(EMBEDDER_PREFIX)
    }
    read = {name: tensor.float() for name, tensor in inside.items() if name.startswith(EMBEDDER_READ)}
    if not read:
        raise BadInput(f"{file} holds no {EMBEDDER_PREFIX}encoder: take OSDFace's own file.")
    return read


def embedder_config(tensors: Mapping[str, torch.Tensor], file: Path) -> VreConfig:
    """The shape of an embedder by its tensors: the level that attends is the one at 16 px. Raises BadInput."""
    try:
        channels = len(tensors["encoder.conv_in.weight"])
        codes, dim = tensors["quantize.embedding.weight"].shape
        levels = {int(name.split(".")[2]) for name in tensors if name.startswith("encoder.down.")}
        widths = [len(tensors[f"encoder.down.{level}.block.0.conv1.weight"]) for level in sorted(levels)]
    except (KeyError, ValueError) as error:
        raise BadInput(f"{file} is no embedder in OSDFace's layout ({error}): take OSDFace's own file.") from error
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


def tensors_of(file: Path, inside: str | None = None) -> dict[str, torch.Tensor]:
    """The state dict in a file of torch.save, or the one under the name `inside` there. Raises BadInput.

    Read with weights_only; where that refuses, as it does old Lightning files for the classes in them, by an unpickler
    that rebuilds tensors and puts an inert placeholder in the place of every other class or function. Nothing that the
    file names is imported or called either way.
    """
    try:
        try:
            read = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            read = torch.load(file, map_location="cpu", weights_only=False, pickle_module=_ONLY_TENSORS)
        found = read if inside is None else read[inside]
        tensors = {str(name): value for name, value in found.items() if isinstance(value, torch.Tensor)}
    except Exception as error:  # a file from anywhere can be broken in any way
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise BadInput(f"{file} holds no tensors that can be read ({why}): take OSDFace's own file.") from error
    return tensors


class Placeholder:
    """What an untrusted pickle gets for a class or function it names: takes anything, does nothing."""

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
    """Rebuilds tensors, dicts and what pickle itself has; torch.load resolves storages before it asks here."""

    def find_class(self, module: str, name: str) -> Any:
        return _ALLOWED.get((module, name), Placeholder)


# what torch.load needs of a pickle module: old files hold several pickles in a row, read by `load`
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
            sizes = f"{tuple(tensor.shape)} where {tuple(own[name].shape)} belongs"
            raise BadInput(f"Tensor {name} of {file} is {sizes}: take OSDFace's own file, and SD 2.1-base as the base.")
    module.load_state_dict(tensors)


def _at_published_size(model: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    lq, *others = inputs
    size = model.config.size
    if lq.shape[-2] == lq.shape[-1] != size:
        lq = F.interpolate(lq, size=(size, size), mode="bilinear", align_corners=True)
    return (lq, *others)
