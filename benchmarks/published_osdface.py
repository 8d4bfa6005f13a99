"""Computes OSDFace's restoration in the order of operations of its infer.py, to compare speed and outputs.

The functions were written from the operations of jkwang28/OSDFace (infer.py with --merge_lora, and lq_embed/vqvae.py).
Only one operation differs: the latent is the mode of the posterior, because a random draw cannot be compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from torch.nn import functional as F

TIMESTEP, TOKENS, SIZE = 399, 77, 512
State = dict[str, torch.Tensor]


class PublishedOsdface:
    """Holds the networks of OSDFace's release on a device, in float32. `embed` makes the prompt."""

    def __init__(self, folder: Path, base_model: str, device: str = "cpu") -> None:
        self.unet: Any = UNet2DConditionModel.from_pretrained(base_model, subfolder="unet")
        self.vae: Any = AutoencoderKL.from_pretrained(base_model, subfolder="vae")
        weights, lora = self.unet.state_dict(), load_file(folder / "pytorch_lora_weights.safetensors")
        for name in [name for name in lora if name.endswith(".lora_A.weight")]:
            weight = weights[name.removeprefix("unet.").replace(".lora_A", "")]
            weight += lora[name.replace("lora_A", "lora_B")] @ lora[name]
        state = torch.load(folder / "associate_2.ckpt", weights_only=True)["state_dict"]
        self.embedder = {name.removeprefix("vqvae_LQ."): tensor.to(device) for name, tensor in state.items()}
        projection: State = torch.load(folder / "embedding_change_weights.pth", weights_only=True)
        self.projection = {name: tensor.to(device) for name, tensor in projection.items()}
        self.unet, self.vae = self.unet.to(device), self.vae.to(device)
        self.shares = DDIMScheduler.from_pretrained(base_model, subfolder="scheduler").alphas_cumprod.double()

    @torch.no_grad()
    def restore(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the restored image of an image (1,3,512,512) in 0..1, and the prompt (1,77,1024)."""
        lq = F.interpolate(image * 2 - 1, (SIZE, SIZE), mode="bilinear", align_corners=True)
        prompt = self.embed(lq)
        z = self.vae.encode(lq).latent_dist.mode() * self.vae.config.scaling_factor
        noise, share = self.unet(z, TIMESTEP, encoder_hidden_states=prompt).sample, self.shares[TIMESTEP]
        clean = ((z.double() - (1 - share) ** 0.5 * noise.double()) / share**0.5).float()
        restored: torch.Tensor = self.vae.decode(clean / self.vae.config.scaling_factor).sample.clamp(-1, 1)
        return restored * 0.5 + 0.5, prompt

    def embed(self, lq: torch.Tensor) -> torch.Tensor:
        """Returns the prompt (1,77,1024) of an image in -1..1."""
        state = self.embedder
        vectors = self._encode((F.interpolate(lq, (SIZE, SIZE), mode="bilinear") - 0.5) / 0.5)
        z, codes = vectors[0].permute(1, 2, 0).reshape(-1, vectors.shape[1]), state["quantize.embedding.weight"]
        distances = (z**2).sum(1, keepdim=True) + (codes**2).sum(1) - 2 * z @ codes.t()
        least, code = distances.min(1)
        chosen: list[int] = []
        for one in code[torch.sort(least).indices]:
            if one.item() not in chosen:
                chosen.append(int(one))
            if len(chosen) == TOKENS:
                break
        picks = codes.new_zeros(TOKENS, len(codes))
        picks[torch.arange(len(chosen)), torch.tensor(chosen)] = 1
        rows = (picks @ codes).t()[None]
        for layer in ("conv1", "conv2"):
            rows = F.silu(F.conv1d(rows, self.projection[f"{layer}.weight"], self.projection[f"{layer}.bias"]))
        return rows.transpose(1, 2)

    def _encode(self, image: torch.Tensor) -> torch.Tensor:
        h, level = self._conv("encoder.conv_in", image, padding=1), 0
        while f"encoder.down.{level}.block.0.conv1.weight" in self.embedder:
            for block in (0, 1):
                h = self._residual(f"encoder.down.{level}.block.{block}", h)
                if f"encoder.down.{level}.attn.{block}.q.weight" in self.embedder:
                    h = self._attend(f"encoder.down.{level}.attn.{block}", h)
            if f"encoder.down.{level}.downsample.conv.weight" in self.embedder:
                h = self._conv(f"encoder.down.{level}.downsample.conv", F.pad(h, (0, 1, 0, 1)), stride=2)
            level += 1
        h = self._residual("encoder.mid.block_1", h)
        h = self._residual("encoder.mid.block_2", self._attend("encoder.mid.attn_1", h))
        return self._conv(
            "quant_conv", self._conv("encoder.conv_out", self._norm("encoder.norm_out", h, True), padding=1)
        )

    def _residual(self, name: str, x: torch.Tensor) -> torch.Tensor:
        h = self._conv(f"{name}.conv1", self._norm(f"{name}.norm1", x, True), padding=1)
        h = self._conv(f"{name}.conv2", self._norm(f"{name}.norm2", h, True), padding=1)
        return h + (self._conv(f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in self.embedder else x)

    def _attend(self, name: str, x: torch.Tensor) -> torch.Tensor:
        h = self._norm(f"{name}.norm1", x)
        q, k, v = (self._conv(f"{name}.{layer}", h).flatten(2) for layer in "qkv")
        share = torch.softmax(q.transpose(1, 2) @ k * x.shape[1] ** -0.5, dim=2)
        return x + self._conv(f"{name}.proj_out", (share @ v.transpose(1, 2)).transpose(1, 2).reshape(x.shape))

    def _norm(self, name: str, x: torch.Tensor, activate: bool = False) -> torch.Tensor:
        h = F.group_norm(x, 32, self.embedder[f"{name}.weight"], self.embedder[f"{name}.bias"], eps=1e-6)
        return h * torch.sigmoid(h) if activate else h

    def _conv(self, name: str, x: torch.Tensor, **how: Any) -> torch.Tensor:
        return F.conv2d(x, self.embedder[f"{name}.weight"], self.embedder[f"{name}.bias"], **how)
