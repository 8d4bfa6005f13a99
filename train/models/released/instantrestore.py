"""Loads InstantRestore's released weights as a restorer, for `--run instantrestore:FOLDER`.

FOLDER contains one of the authors' files `*_ckpt.pt`, a checkpoint of torch.save with three keys:

`state_dict` has all tensors of the authors' two UNets, two VAEs and text encoder, including those that were not
    trained. The adapters of the UNet and of the VAE have peft's names, and their alpha is half their rank.
`cfg` has the settings of the training, as plain values.
`optimizer` is not used.

The authors' public code (snap-research/InstantRestore) writes and reads this layout. We have not seen the released
files. The checkpoint has all weights, so only the configurations and the tokenizer are read from the base model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig
from torch import nn

from manifests.errors import BadInput
from train.models.bases.base_folder import check_base
from train.models.released.instantrestore_base import TIMESTEP, InstantRestoreBase
from train.models.released.read_pickled import load_tensors, read_pickled
from train.models.restorer import Restorer
from train.recipes.model_configs import build_model_config
from train.recipes.recipes import DIFFUSION, find_recipe

FINAL = "final_model_ckpt.pt"
FILES = "*_ckpt.pt"
SOURCE = "InstantRestore's own file, and give sd-turbo as --base-model"
ADVICE = "give sd-turbo in the layout of diffusers"
PROMPT = "A high-quality photo of a person; professional, 8k"  # From pix2pix_turbo.py.
MOST_REFERENCES = 4  # The training used four references, and inference/test.py reads the first four.
# The layers that pix2pix_turbo.py adapts. peft adapts a layer if the last parts of its name are one of these names.
_ATTENTION = ("to_k", "to_q", "to_v", "to_out.0")
_CONVOLUTIONS = ("conv", "conv1", "conv2", "conv_shortcut", "conv_out")
ADAPTED_UNET = (*_ATTENTION, *_CONVOLUTIONS, "proj_in", "proj_out", "ff.net.2", "ff.net.0.proj")
ADAPTED_VAE = (*_ATTENTION, *_CONVOLUTIONS, "conv_in")
UNET_ADAPTER, VAE_ADAPTER = "default", "vae_skip"
# The settings in `cfg` that change the result, with the defaults of the authors' train_config.py. The authors' final
# configuration has rank 32, use_adain true and train_input false.
CHOICES: dict[str, int | bool] = {
    "lora_rank_unet": 16,
    "lora_rank_vae": 16,
    "use_adain": False,
    "train_input": True,
}
# The settings in `cfg` that have the same value in all of the authors' configuration files. A checkpoint with another
# value would need other layers.
_FIXED: dict[str, str | bool] = {
    "net_type": "pix2pix_turbo",
    "condition_on_face_embeds": False,
    "use_shared_attention": True,
    "train_vae": True,
    "use_shortcuts": False,
    "train_reference_networks": False,
}


def load_instantrestore(source: Path, base_model: str, seed: int = 0) -> Restorer:
    """Returns a restorer with InstantRestore's released weights, in eval mode.

    `source` is as in `find_checkpoint`. `base_model` is the folder or hub name of sd-turbo. The restorer computes in
    float32, and draws its noise from `seed`. The authors compute in float16, without a seed.

    Do not save this restorer. The adapters of the restorer are merged into the frozen weights, which a checkpoint does
    not contain. Raises BadInput if a file is missing, contains code, has another layout or does not fit the base.
    """
    file = find_checkpoint(Path(source))
    recipe = replace(find_recipe("instant", DIFFUSION), lora_rank=0)
    config = build_model_config(recipe, 0, base_model)
    config = replace(config, timestep=TIMESTEP, reference_limit=MOST_REFERENCES)
    unet_config, vae_config = check_base(config, ADVICE)
    if vae_config["_class_name"] != "AutoencoderKL":
        raise BadInput(
            f"{base_model} cannot be the base of InstantRestore, because its VAE is of the class "
            f"{vae_config['_class_name']}, and InstantRestore adapts an AutoencoderKL: {ADVICE}."
        )
    prompt_ids = read_prompt(base_model)
    # Read the file, and build the networks under the authors' names for their tensors.
    checkpoint = read_pickled(file, SOURCE)
    settings = read_settings(checkpoint, file)
    networks = nn.ModuleDict(
        {
            "unet": _build(UNet2DConditionModel, unet_config, ADAPTED_UNET, settings["lora_rank_unet"], UNET_ADAPTER),
            "vae": _build(AutoencoderKL, vae_config, ADAPTED_VAE, settings["lora_rank_vae"], VAE_ADAPTER),
            "original_unet": _build(UNet2DConditionModel, unet_config),
            "original_vae": _build(AutoencoderKL, vae_config),
            "text_encoder": _build_text_encoder(base_model),
        }
    )
    tensors = read_state(checkpoint, file, networks["text_encoder"])
    load_tensors(nn.ModuleDict({"net": networks}), tensors, file, SOURCE)
    # Merge the adapters, and compute the prompt once.
    for part in ("unet", "vae"):
        network: Any = networks[part]
        network.fuse_lora()
        network.unload_lora()
    with torch.no_grad():
        prompt = networks["text_encoder"].eval()(prompt_ids)[0]
    schedule: dict[str, Any] = dict(DDPMScheduler.load_config(base_model, subfolder="scheduler"))
    base = InstantRestoreBase(
        networks["unet"],
        networks["vae"],
        networks["original_unet"],
        networks["original_vae"],
        prompt,
        adain=bool(settings["use_adain"]),
        reads_input=bool(settings["train_input"]),
        # The authors load sd-turbo's scheduler as a DDPMScheduler, which clips the clean latent by default.
        clip=float(schedule.get("clip_sample_range", 1.0)) if schedule.get("clip_sample", True) else None,
        seed=seed,
    )
    facts = {"recipe": recipe.name, "released": "InstantRestore", "seed": seed, "needs_reference": True}
    return Restorer(config, facts, base).eval()


def find_checkpoint(source: Path) -> Path:
    """Returns `source` if it is a file. In a folder, returns `final_model_ckpt.pt`, or the only file `*_ckpt.pt`.

    Raises BadInput if the folder has no such file, or several files but not `final_model_ckpt.pt`.
    """
    if source.is_file():
        return source
    files = sorted(source.glob(FILES)) if source.is_dir() else []
    if not files:
        raise BadInput(f"{source} contains no file {FILES}: put InstantRestore's {FINAL} there.")
    final = [file for file in files if file.name == FINAL]
    if len(files) > 1 and not final:
        raise BadInput(
            f"{source} contains several checkpoints ({', '.join(file.name for file in files)}): write "
            f"instantrestore:FILE with the path of one file."
        )
    return (final or files)[0]


def read_settings(checkpoint: Mapping[str, Any], file: Path) -> dict[str, int | bool]:
    """Returns the settings of a checkpoint that are in CHOICES. Raises BadInput if Likeness does not support a setting
    of the checkpoint."""
    cfg = checkpoint.get("cfg")
    model = cfg.get("model") if isinstance(cfg, Mapping) else None
    if not isinstance(model, Mapping):
        raise BadInput(f"{file} contains no settings under cfg: take {SOURCE}.")
    for name, needed in _FIXED.items():
        if model.get(name, needed) != needed:
            raise BadInput(
                f"{file} was trained with {name} {model[name]}, and Likeness supports only {needed}, as in the "
                f"released configurations: take {SOURCE}."
            )
    settings = {name: model.get(name, default) for name, default in CHOICES.items()}
    for name, value in settings.items():
        if type(value) is not type(CHOICES[name]) or (name.startswith("lora_rank") and value < 2):
            raise BadInput(f"{file} has the setting {name} {value!r}, which is not possible: take {SOURCE}.")
    return settings


def read_state(checkpoint: Mapping[str, Any], file: Path, text_encoder: nn.Module) -> dict[str, Any]:
    """Returns the tensors of a checkpoint by name. Raises BadInput if the checkpoint has no state dict.

    As in the authors' code, the part `module`, which training on several GPUs adds, is removed from the names. After
    version 5.0 of transformers, the names of a text encoder have no part `text_model`. This part is then removed too.
    """
    state = checkpoint.get("state_dict")
    if not isinstance(state, Mapping):
        raise BadInput(f"{file} contains no tensors under state_dict: take {SOURCE}.")
    names = {name: str(name).replace(".module.", ".") for name in state}
    if not hasattr(text_encoder, "text_model"):
        long, short = "net.text_encoder.text_model.", "net.text_encoder."
        names = {name: plain.replace(long, short) for name, plain in names.items()}
    return {plain: state[name] for name, plain in names.items()}


def read_prompt(base_model: str) -> torch.Tensor:
    """Returns the token ids (1,77) of PROMPT. Raises BadInput if the base has no usable tokenizer."""
    from transformers import CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(base_model, subfolder="tokenizer")
        ids: torch.Tensor = tokenizer(
            PROMPT, max_length=tokenizer.model_max_length, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
    except Exception as error:  # transformers raises many kinds of errors for missing and broken files
        raise _lacks(base_model, "tokenizer", error) from error
    return ids


def _build(kind: Any, config: dict[str, Any], targets: tuple[str, ...] = (), rank: int = 0, adapter: str = "") -> Any:
    """Returns a model of diffusers with uninitialised weights, and with adapters on the layers `targets`.

    `adapter` is peft's name for the adapters, which is a part of the names of their tensors.
    """
    with torch.device("meta"):  # saves the time of drawing random weights
        model = kind.from_config(config)
        if targets:
            lora = LoraConfig(r=rank, lora_alpha=rank // 2, target_modules=list(targets), init_lora_weights=False)
            model.add_adapter(lora, adapter)
    return model.to_empty(device="cpu")


def _build_text_encoder(base_model: str) -> nn.Module:
    """Returns the text encoder of a base with random weights."""
    from transformers import CLIPTextConfig, CLIPTextModel

    try:
        # If the folder had no configuration, transformers would use its default configuration.
        if Path(base_model).is_dir() and not (Path(base_model) / "text_encoder" / "config.json").is_file():
            raise FileNotFoundError("text_encoder/config.json is missing")
        model: nn.Module = CLIPTextModel(CLIPTextConfig.from_pretrained(base_model, subfolder="text_encoder"))
    except Exception as error:  # transformers raises many kinds of errors for missing and broken files
        raise _lacks(base_model, "text_encoder", error) from error
    return model


def _lacks(base_model: str, part: str, error: Exception) -> BadInput:
    why = " ".join(str(error).split())[:120] or type(error).__name__
    return BadInput(f"{base_model} has no usable {part} ({why}): {ADVICE} as --base-model.")
