"""The restorer: one model made of parts, called once, or a few times where it was trained for that."""

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
from train.models import one_step
from train.models.bases.tiny import TinyBase
from train.models.checkpoint_files import CONFIG, WEIGHTS, find_newest_checkpoint, write_model_files
from train.models.config import ModelConfig
from train.models.io import Conditions, Places, Restoration, find_places
from train.models.prompts.honestface import IdentityEmbedder
from train.models.prompts.vre import Vre
from train.models.references import MeanEmbedding, ReferenceEncoder
from train.models.steps import Schedule, renoised

PICKLED = (".bin", ".ckpt", ".pkl", ".pt", ".pth")  # files that can run code when they are read
BASE_SHA256 = "base_sha256"  # in config.json: what a base's config files hashed to when the checkpoint was made


class Restorer(nn.Module):
    """LQ face and any number of references of the same person -> restored face, in one step, or in `set_steps`.

    What a recipe does not name in its parts does not exist here. `facts` is what a user of the weights has to know and
    the network does not: `recipe`, `images` seen, `recognizer` (spec, sha256, licence, size, template, mean, std, dim),
    `template` (the five points of the crop, at 512 px). Raises BadInput where the base of `config` cannot be had.
    """

    def __init__(self, config: ModelConfig, facts: dict[str, Any] | None = None) -> None:
        super().__init__()
        parts, tiny = set(config.parts), config.base == "tiny"
        self._base_sha256: str | None = None
        if not tiny:
            config, self._base_sha256 = _found(config)
        self.config = config
        self.facts = dict(facts or {})
        self.schedule = Schedule(config.timestep, config.steps)
        self.timesteps = self.schedule.visited(1)  # of a call
        # on a diffusion model the frozen UNet itself gives the keys and values of `extended`
        maps, tokens = "maps" in parts, "extended" in parts and tiny
        self.references, self.embedding = None, None
        if maps or tokens:
            self.references = ReferenceEncoder(config.reference_channels, config.latent_factor, maps, tokens)
        if "embedding" in parts:
            self.embedding = MeanEmbedding(config.embedding_dim)
        self.base = TinyBase(config) if tiny else _diffusion(config)
        self.vre, self.identity = None, None
        if "vre" in parts:
            self.vre = Vre(config.vre, self.base.prompt_dim)
        if "identity" in parts:
            self.identity = IdentityEmbedder(config, self.base.prompt_dim)
        self._trained = frozenset(name for name, weight in self.named_parameters() if weight.requires_grad)

    def forward(
        self,
        lq: torch.Tensor,
        references: torch.Tensor,
        present: torch.Tensor,
        embeddings: torch.Tensor,
        target: torch.Tensor | None = None,
        step: torch.Tensor | None = None,
        places: Places | None = None,
    ) -> Restoration:
        """Restore a batch.

        lq (B,3,S,S) float32 0..1; references (B,K,3,S,S) float32 0..1 in the same template, warped to the LQ where the
        recipe has the part `warped`; present (B,K) bool, False where a slot is empty; embeddings (B,K,d) unit rows of
        the recognizer named in `facts`. K may be 0 and may differ between calls; the order of the references does not
        matter. `target` is for models that learn from it inside (recipe vre) and is not looked at here. `step` (B,)
        long trains several steps: each image's own is answered, from a first step that learns nothing.
        """
        places = find_places(present, step) if places is None else places
        conditions = self.condition(lq, references, present, embeddings, places)
        z = self.base.encode(lq)
        if step is None:
            clean = self._through(z, conditions)
        else:
            timestep = torch.tensor(self.schedule.timesteps).to(z.device, non_blocking=True)[step]
            z = self._given(z, conditions, places, timestep)
            clean = one_step.clean_from_noise(z, self.base.predict(z, conditions, timestep), timestep)
        image = self.base.decode(clean, lq).float()
        return Restoration(image if self.training else image.clamp(0, 1), clean, conditions.prompt)

    def set_steps(self, steps: int) -> None:
        """Take so many steps a call from now on. Raises BadInput for more than it was trained for."""
        self.timesteps = self.schedule.visited(steps)

    def _through(self, z: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """The clean latent after every step of a call."""
        first, *later = self.timesteps
        noise = self.base.predict(z, conditions, first)
        clean = one_step.clean_from_noise(z, noise, first)
        for timestep in later:
            z = renoised(clean, noise, timestep)
            noise = self.base.predict(z, conditions, timestep)
            clean = one_step.clean_from_noise(z, noise, timestep)
        return clean

    @torch.no_grad()
    def _given(self, z: torch.Tensor, conditions: Conditions, places: Places, timestep: torch.Tensor) -> torch.Tensor:
        """What each image's step is given: z at the first step, `later` the model's own first answer, re-noised.

        Its own and not the target: from a target that shines through the noise a step would learn to trust what it is
        given, and when restoring it has to mend the answers of the steps before (ours).
        """
        later = places.later
        if not len(later):
            return z
        first, own, seen = self.schedule.first, z[later], conditions.select_later(places)
        noise = self.base.predict(own, seen, first)
        answer = renoised(one_step.clean_from_noise(own, noise, first), noise, timestep[later])
        # before 2.11 torch's autocast keeps a weight as it was cast here, without gradients, for the step that learns
        torch.clear_autocast_cache()
        given = z.to(answer.dtype, copy=True)
        given[later] = answer
        return given

    def condition(
        self,
        lq: torch.Tensor,
        references: torch.Tensor,
        present: torch.Tensor,
        embeddings: torch.Tensor,
        places: Places | None = None,
    ) -> Conditions:
        """What the one step is told of a batch, arguments as in `forward`."""
        filled = (find_places(present) if places is None else places).filled
        maps, tokens, token_mask = [], None, None
        if self.references is not None:
            maps, tokens, token_mask = self.references(references, present, filled)
        prompt = None if self.vre is None else self.vre(lq)
        if self.identity is not None:
            prompt = self.identity(lq, references, present, filled, embeddings, prompt)
        raw = "extended" in self.config.parts and tokens is None
        return Conditions(
            present=present,
            filled=filled,
            prompt=prompt,
            maps=maps,
            identity=None if self.embedding is None else self.embedding(embeddings, present),
            references=references if raw else None,
            tokens=tokens,
            token_mask=token_mask,
        )

    def weights(self) -> dict[str, torch.Tensor]:
        """What a checkpoint holds, by name: all but what is frozen in the base, which its own folder has."""
        state = self.state_dict()
        return {n: tensor for n, tensor in state.items() if not n.startswith("base.") or n in self._trained}

    def load_weights(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """The inverse of `weights`. Raises ValueError where a tensor is missing, unknown or of another shape."""
        own = self.weights()
        if wrong := sorted(own.keys() ^ tensors.keys()):
            raise ValueError(f"it {'lacks' if wrong[0] in own else 'also has'} {wrong[0]}, {len(wrong)} such in all")
        for name, tensor in tensors.items():
            if tensor.shape != own[name].shape:
                raise ValueError(f"{name} is {tuple(tensor.shape)} and should be {tuple(own[name].shape)}")
        self.load_state_dict(tensors, strict=False)

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json and model.safetensors into `folder`."""
        facts = self.facts if self._base_sha256 is None else {**self.facts, BASE_SHA256: self._base_sha256}
        write_model_files(Path(folder), self.config, facts, self.weights())

    @classmethod
    def from_pretrained(cls, folder: Path, base_model: str | None = None) -> Restorer:
        """Load a checkpoint folder, or the newest checkpoint of a RUN folder, in eval mode.

        `base_model` says where the diffusion model lies now that it was trained on. Raises BadInput, with a sentence,
        for what holds no checkpoint, a broken one or one of something else, pickled weights, which are never read, and
        a base that is missing or another one.
        """
        folder = _checkpoint_folder(Path(folder))
        try:
            described = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            config, recorded = ModelConfig.from_json(described.pop("model")), described.pop(BASE_SHA256, None)
        except Exception as error:  # whatever is wrong with the file, the answer is the same
            raise _unloadable(folder, error) from error
        if described.get("recipe") == "vre":
            raise BadInput(
                f"{folder} holds a dictionary of recipe vre, which restores nothing: train on it with --vre."
            )
        if config.base == "tiny":
            if base_model not in (None, "tiny"):
                raise BadInput(f"{folder} was trained on tiny, which needs no base: leave --base-model away.")
        else:
            config = replace(config, base_model=base_model or config.base_model)
            _check_base(folder, config.base_model, recorded)
        try:
            model = cls(config, described)
            model.load_weights(load_file(folder / WEIGHTS))
        except BadInput:
            raise
        except Exception as error:  # likewise
            raise _unloadable(folder, error) from error
        return model.eval()


def _found(config: ModelConfig) -> tuple[ModelConfig, str]:
    """The config with its base where any working directory finds it, and what the base's config files hash to."""
    from train.models.bases.diffusion import base_fingerprint

    if Path(config.base_model).is_dir():  # else the name of a hub
        config = replace(config, base_model=str(Path(config.base_model).resolve()))
    return config, base_fingerprint(config.base_model)


def _diffusion(config: ModelConfig) -> Any:
    from train.models.bases.diffusion import DiffusionBase  # `tiny` never waits for peft and transformers

    return DiffusionBase(config)


def _checkpoint_folder(folder: Path) -> Path:
    refused = "pickled weights can run code when they are read, so they never are"
    if folder.is_file():
        why = refused if folder.suffix in PICKLED else "a checkpoint is a folder"
        raise BadInput(f"{folder} is a file ({why}): name a folder that `likeness train --out` made.")
    try:
        return find_newest_checkpoint(folder)
    except BadInput:
        pickled = [path.name for path in sorted(folder.glob("*")) if path.suffix in PICKLED]
        if not pickled:
            raise
        raise BadInput(
            f"{folder} holds {pickled[0]} and no {WEIGHTS} ({refused}): name a folder that `likeness train --out` made."
        ) from None


def _check_base(folder: Path, base_model: str, recorded: str | None) -> None:
    """Raises BadInput unless `base_model` is the base that the checkpoint in `folder` was trained on."""
    from train.models.bases.diffusion import base_fingerprint

    try:
        found = base_fingerprint(base_model)
    except (BadInput, OSError) as error:
        raise BadInput(
            f"The base {base_model} of {folder} cannot be read ({str(error).rstrip('.')}): say where it lies with "
            "--base-model FOLDER."
        ) from error
    if found != recorded:
        raise BadInput(
            f"{base_model} is not the base that {folder} was trained on, its configuration differs: name that one with "
            "--base-model FOLDER."
        )


def _unloadable(folder: Path, error: Exception) -> BadInput:
    return BadInput(f"{folder} holds no restorer that this version can load ({error}).")
