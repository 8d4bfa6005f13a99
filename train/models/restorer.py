"""Defines the restorer, one model made of parts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from manifests.errors import BadInput
from train.models.bases.stylegan.base import StyleganBase
from train.models.bases.tiny import TinyBase
from train.models.checkpoint_files import (
    BASE_SHA256,
    CONFIG,
    OWN_BASE,
    WEIGHTS,
    find_checkpoint_folder,
    write_model_files,
)
from train.models.config import ModelConfig, check_steps
from train.models.identity.identity_encoder import IdentityEncoder, IrSe
from train.models.io import Conditions, EncodedReferences, Places, Restoration, find_places
from train.models.prompts.honestface import IdentityEmbedder
from train.models.prompts.vre import Vre
from train.models.references import MeanEmbedding, ReferenceEncoder
from train.models.timesteps.denoise import NoisyStep, draw_noisy_step, sample
from train.models.timesteps.one_step import add_noise

# The names of base stylegan's random buffers begin with this text. A checkpoint contains them, although they are not
# trained.
_NOISES = "base.generator.decoder.noises."


class Restorer(nn.Module):
    """Restores an LQ face with any number of references of the same person.

    If `config.denoise` is True, the restorer is a denoiser (train/models/timesteps/denoise.py). A denoiser can take
    several steps and draws noise. All other restorers take one step.

    The model has only the parts in `config.parts`. `facts` has facts for users of the weights, with the keys `recipe`,
    `images`, `recognizer` and `template`. `images` is the number of images seen in training. `recognizer` has the keys
    spec, sha256, licence, size, template, mean, std and dim. `template` has the five points of the crop at 512 px. If
    `base` is given, it is used instead of the base that `config` describes. Raises BadInput if the base of `config`
    cannot be loaded.
    """

    def __init__(self, config: ModelConfig, facts: dict[str, Any] | None = None, base: Any = None) -> None:
        super().__init__()
        parts, tiny = set(config.parts), config.base == "tiny"
        self.base_sha256: str | None = None
        if not tiny and config.stylegan is None:
            config, self.base_sha256 = _locate_base(config)
        self.config = config
        self.facts = dict(facts or {})
        self.steps, self.seed = 1, 0  # Only a denoiser uses these values, see `set_sampling`.
        # Build the encoder of the references for part `maps`, and on base tiny also for part `extended`. On a diffusion
        # base, part `extended` needs no encoder, because the references pass through the frozen UNet.
        maps, tokens = "maps" in parts, "extended" in parts and tiny
        self.references, self.embedding = None, None
        if maps or tokens:
            self.references = ReferenceEncoder(config.reference_channels, config.latent_factor, maps, tokens)
        if "embedding" in parts:
            self.embedding = MeanEmbedding(config.embedding_dim)
        # If the restorer has an identity encoder, the encoder embeds the references, and the recognizer does not. The
        # encoder is frozen, but checkpoints contain its weights.
        self.identity_encoder: nn.Module | None = None
        if config.identity_encoder is not None:
            self.identity_encoder = IdentityEncoder(IrSe(config.identity_encoder))
        # Build the base before the embedders, because the length of a prompt token depends on the base.
        self.base: Any = _build_base(config) if base is None else base
        self.vre, self.identity = None, None
        if "vre" in parts:
            self.vre = Vre(config.vre, self.base.prompt_dim)
        if {"identity", "features"} & parts:
            self.identity = IdentityEmbedder(config, self.base.prompt_dim)
        # Store the names of the trained parameters. `weights` leaves out the frozen parameters of the base.
        self._trained = frozenset(name for name, weight in self.named_parameters() if weight.requires_grad)

    def forward(
        self,
        lq: torch.Tensor,
        references: torch.Tensor,
        present: torch.Tensor,
        embeddings: torch.Tensor,
        target: torch.Tensor | None = None,
        places: Places | None = None,
        noisy: NoisyStep | None = None,
        encoded: EncodedReferences | None = None,
    ) -> Restoration:
        """Restores a batch.

        `lq` is (B,3,S,S) float32 in 0..1. `references` is (B,K,3,S,S) float32 in 0..1, aligned to the template of `lq`.
        With part `warped`, the references must be warped to `lq`. `present` is (B,K) bool, and False for an empty slot.
        `embeddings` is (B,K,d), each of length 1: the embeddings of the references by the recognizer in `facts`.
        `places` is the result of `find_places(present)`. Without `places`, this method computes it, and the CPU waits
        for the device. `encoded` is the result of `encode_references` for the references of all filled slots, in the
        order of the slots. Without `encoded`, this method encodes the references.

        `target` (B,3,S,S) float32 in 0..1 and `noisy`, the result of `draw_noisy_step`, are for the training of a
        denoiser. The denoiser then computes the clean latent from the target's latent with noise. Without `noisy`, a
        denoiser restores `lq`.

        K can be 0 and can differ between calls. The order of the references matters only for base `stylegan`, which
        reads the first references.
        """
        # Compute the conditions of all steps and the LQ latent z, (B,C,h,w).
        conditions = self.condition(lq, references, present, embeddings, places, encoded)
        highest = self.config.timestep
        z = self.base.encode(lq)
        # A denoiser reads the LQ latent and the noisy latent. In training, the noisy latent is the target's latent with
        # noise, at a random timestep for each image.
        if not self.config.denoise:
            clean = self.base.predict(z, conditions, highest)
        elif noisy is None:
            conditions = replace(conditions, lq=z)
            clean = sample(z, lambda x, t: self.base.predict(x, conditions, t), highest, self.steps, self.seed)
        else:
            with torch.no_grad():
                latent = noisy.target_latent
                if latent is None:
                    assert target is not None
                    latent = self.base.encode(target)
                noisy_target = add_noise(latent, noisy.noise, noisy.timestep)
            clean = self.base.predict(noisy_target, replace(conditions, lq=z), noisy.timestep)
        # Decode to (B,3,S,S). In training the image is not clamped, because a clamped pixel has no gradient.
        image = self.base.decode(clean).float()
        return Restoration(image if self.training else image.clamp(0, 1), clean, conditions.prompt)

    def set_sampling(self, steps: int = 1, seed: int = 0) -> None:
        """Sets the number of steps and the seed of the noise with which a denoiser restores.

        Raises BadInput if `steps` is not in 1..MOST_STEPS, or if `steps` is above 1 and the restorer is not a denoiser.
        """
        check_steps(steps, self.config.denoise)
        self.steps, self.seed = steps, seed

    def draw_noisy_step(self, count: int, draw: torch.Generator) -> NoisyStep:
        """Returns random timesteps and random noise for the training of a denoiser on `count` images."""
        side = self.config.size // self.config.latent_factor
        shape = (count, self.base.latent_channels, side, side)
        return draw_noisy_step(self.config.timestep, shape, draw, next(self.parameters()).device)

    def condition(
        self,
        lq: torch.Tensor,
        references: torch.Tensor,
        present: torch.Tensor,
        embeddings: torch.Tensor,
        places: Places | None = None,
        encoded: EncodedReferences | None = None,
    ) -> Conditions:
        """Returns the conditions of a batch. The arguments are as in `forward`."""
        places = find_places(present) if places is None else places
        filled = places.filled
        # Encode the references: maps (B,2C,h,w) for each scale, and for part `extended` on base tiny tokens (B,K,N,C).
        maps, tokens = [], None
        if self.references is not None:
            maps, tokens = self.references(references, present, filled, None if encoded is None else encoded.maps)
        # Make the prompt (B,N,D) from the LQ face. Parts `identity` and `features` add tokens.
        prompt = None if self.vre is None else self.vre(lq)
        if self.identity is not None:
            features = None if encoded is None or not encoded.features else encoded.features[0]
            prompt = self.identity(lq, references, present, filled, embeddings, prompt, features)
        # Part `extended` on a diffusion base: pass the references through the UNet, before the LQ latent.
        if encoded is None and self._shows_references and len(filled):
            shown = self.base.show(references.flatten(0, 1)[filled])
            encoded = EncodedReferences(keys_and_values=shown)
        return Conditions(
            present=present,
            filled=filled,
            groups=places.groups,
            prompt=prompt,
            maps=maps,
            identity=None if self.embedding is None else self.embedding(embeddings, present),
            references=references,
            encoded=encoded,
            tokens=tokens,
        )

    @torch.inference_mode()
    def encode_references(self, pictures: torch.Tensor) -> EncodedReferences:
        """Returns what the restorer computes from the references `pictures`, (n,3,S,S) in 0..1, before it sees a face.

        The result is the argument `encoded` of `forward`. The same references are thus encoded only once for many
        faces.
        """
        features = None if self.identity is None else self.identity.features
        return EncodedReferences(
            () if self.references is None else tuple(self.references.encoder(pictures)),
            () if features is None else (features.encoder(pictures)[-1],),
            self.base.show(pictures) if self._shows_references else (),
        )

    @property
    def _shows_references(self) -> bool:
        """Returns whether the references pass through the UNet of a diffusion base."""
        return getattr(self.base, "extension", None) is not None

    def weights(self) -> dict[str, torch.Tensor]:
        """Returns the tensors of a checkpoint by name. The frozen tensors of the base are left out."""
        state = self.state_dict()
        saved = {name for name in state if not name.startswith("base.") or name.startswith(_NOISES)}
        return {name: tensor for name, tensor in state.items() if name in saved or name in self._trained}

    def load_weights(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Loads tensors that `weights` returned. Raises ValueError if a tensor is missing, unknown or of another shape,
        or has NaN or infinity."""
        own = self.weights()
        if wrong := sorted(own.keys() ^ tensors.keys()):
            raise ValueError(
                f"it {'lacks' if wrong[0] in own else 'also has'} {wrong[0]}; tensors that do not fit: {len(wrong)}"
            )
        for name, tensor in tensors.items():
            if tensor.shape != own[name].shape:
                raise ValueError(f"{name} is {tuple(tensor.shape)} and should be {tuple(own[name].shape)}")
            if not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"its weight {name} contains NaN or infinity")
        self.load_state_dict(tensors, strict=False)

    def save_pretrained(self, folder: Path) -> None:
        """Writes config.json and model.safetensors into `folder`."""
        facts = self.facts if self.base_sha256 is None else {**self.facts, BASE_SHA256: self.base_sha256}
        write_model_files(Path(folder), self.config, facts, self.weights())

    @classmethod
    def from_pretrained(cls, folder: Path, base_model: str | None = None) -> Restorer:
        """Returns the restorer of a checkpoint folder, or of the newest checkpoint in a RUN folder, in eval mode.

        `base_model` is the folder or hub name of the diffusion model. If `base_model` is None, the name is read from
        the checkpoint.

        Raises BadInput if `folder` has no checkpoint, a broken checkpoint, a dictionary of recipe vre, or only pickled
        weights, which are never read. Raises BadInput also if the base is missing, or is not the base of the training.
        """
        folder = find_checkpoint_folder(Path(folder))
        # Read the architecture and the facts.
        try:
            described = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            model_fields, recorded = described.pop("model"), described.pop(BASE_SHA256, None)
            config = ModelConfig.from_json(model_fields)
        except Exception as error:  # a broken file can raise many kinds of errors
            raise _unloadable(folder, error) from error
        if described.get("recipe") == "vre":
            raise BadInput(
                f"{folder} contains a dictionary of recipe vre, which cannot restore faces: give the folder to "
                "`likeness train` as --vre."
            )
        # Check that the base is the base that the training used.
        if config.base == "tiny" or config.stylegan is not None:
            if base_model not in (None, config.base):
                raise BadInput(
                    f"{folder} was trained on the base {config.base}, a part of Likeness: leave --base-model out."
                )
        else:
            base_model = base_model or (_find_own_base(folder) if config.base_model == OWN_BASE else config.base_model)
            config = replace(config, base_model=base_model)
            _check_base(folder, config.base_model, recorded)
        # Build the model and load its weights.
        try:
            model = cls(config, described)
            model.load_weights(load_file(folder / WEIGHTS))
        except BadInput:
            raise
        except Exception as error:  # a broken file can raise many kinds of errors
            raise _unloadable(folder, error) from error
        return model.eval()


def _locate_base(config: ModelConfig) -> tuple[ModelConfig, str]:
    """Returns the config and the fingerprint of its base. If the base is a folder, its path in the config becomes
    absolute."""
    from train.models.bases.base_folder import base_fingerprint

    if Path(config.base_model).is_dir():  # otherwise `base_model` is a hub name
        config = replace(config, base_model=str(Path(config.base_model).resolve()))
    return config, base_fingerprint(config.base_model)


def _find_own_base(folder: Path) -> str:
    """Returns `folder`, which contains its base. Raises BadInput if a part of the base is missing."""
    missing = [part for part in ("unet", "vae", "scheduler") if not (folder / part).is_dir()]
    if missing:
        raise BadInput(
            f"{folder} lacks the folder {missing[0]} of its base: copy the whole folder again, or give the base from "
            "training with --base-model FOLDER."
        )
    return str(folder)


def _build_base(config: ModelConfig) -> Any:
    if config.base == "tiny":
        return TinyBase(config)
    if config.stylegan is not None:
        return StyleganBase(config.stylegan)
    # This file imports peft and transformers, which base tiny does not need.
    from train.models.bases.diffusion import DiffusionBase

    return DiffusionBase(config)


def _check_base(folder: Path, base_model: str, recorded: str | None) -> None:
    """Raises BadInput if the checkpoint in `folder` was trained on another base than `base_model`."""
    from train.models.bases.base_folder import base_fingerprint

    try:
        fingerprint = base_fingerprint(base_model)
    except (BadInput, OSError) as error:
        raise BadInput(
            f"The base {base_model} of {folder} cannot be read ({str(error).rstrip('.')}): give the "
            "folder of the base with --base-model FOLDER."
        ) from error
    if fingerprint != recorded:
        raise BadInput(
            f"{base_model} is not the base that {folder} was trained on, because its configuration differs: give the "
            "base from training with --base-model FOLDER."
        )


def _unloadable(folder: Path, error: Exception) -> BadInput:
    return BadInput(
        f"{folder} contains no restorer that this version can load ({error}): give the folder of another run or "
        "checkpoint."
    )
