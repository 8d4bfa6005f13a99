"""Measures how well an autoencoder reconstructs real faces. A restorer with this autoencoder cannot do better.

    python benchmarks/light_ceiling.py FACES... --vae FOLDER [--faces SPEC] [--keep]

FACES are photos of aligned faces, 512 x 512 px, and folders with such photos. FOLDER is the folder of an AutoencoderKL
or an AutoencoderTiny of diffusers, or contains `taef2_encoder.pth` and `taef2_decoder.pth` (TAEF2, the tiny autoencoder
of FLUX.2). TAEF2 has 32 latent channels, so it fits no UNet of Stable Diffusion 2.1. The identity is the cosine between
the embeddings of a photo and of its reconstruction. The autoencoder computes each reconstruction twice: in float32, and
in bfloat16 under autocast. The autoencoder runs on the GPU if the machine has a GPU. The last rows compare the
reconstructions in float32 and in bfloat16.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from record_result import record_result
from torch import nn

from curate.faces.align import embed_face
from curate.faces.load import load_faces
from manifests.pictures.images import decode
from train.data.tensors import to_tensor
from train.metrics.psnr_ssim import psnr
from train.models.bases.base_folder import VAES
from train.restore.pasting.paste import round_to_levels

SIZE = 512
TAEF2 = "taef2_{}.pth"


class PooledBlock(nn.Module):
    """A block of an AutoencoderTiny, with the additional branch that TAEF2's coarsest blocks have."""

    def __init__(self, block: nn.Module, channels: int = 64) -> None:
        super().__init__()
        self.block, wide = block, 4 * channels
        self.pool = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False),
            nn.GroupNorm(4, wide),
            nn.ReLU(),
            nn.Conv2d(wide, channels, 1, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the output of the block, in the shape of x."""
        reached: torch.Tensor = self.block(x + self.pool(x))
        return reached


def load_taef2(folder: Path) -> Any:
    """Returns TAEF2 as an AutoencoderTiny of diffusers with a branch in its coarsest blocks.

    The layers have the order of madebyollin/taesd. The first layer of the decoder, a clamp, has no tensors and no place
    in diffusers' list.
    """
    vae = VAES["AutoencoderTiny"](latent_channels=32)
    for part, network, shift in (("encoder", vae.encoder, 0), ("decoder", vae.decoder, 1)):
        tensors = torch.load(folder / TAEF2.format(part), weights_only=True)
        state = {}
        for name, tensor in tensors.items():
            number, rest = name.split(".", 1)
            if f"{number}.pool.0.weight" in tensors:
                index = int(number) - shift
                if not isinstance(network.layers[index], PooledBlock):
                    network.layers[index] = PooledBlock(network.layers[index])
                rest = rest if rest.startswith("pool.") else f"block.{rest}"
            state[f"{int(number) - shift}.{rest}"] = tensor.float()
        network.layers.load_state_dict(state)
    return vae.eval()


def load_autoencoder(folder: Path) -> Any:
    """Returns the autoencoder in `folder`, in float32."""
    if (folder / TAEF2.format("encoder")).is_file():
        return load_taef2(folder)
    name = VAES["AutoencoderKL"].load_config(folder)["_class_name"]
    return VAES[name].from_pretrained(folder, torch_dtype=torch.float32, use_safetensors=True).eval()


@torch.inference_mode()
def reconstruct(vae: Any, image: torch.Tensor, bfloat16: bool) -> torch.Tensor:
    """Returns the reconstruction of an image (1,3,S,S) in 0..1, on the CPU. The latent is the mode of the posterior."""
    device = next(vae.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        encoded = vae.encode(image.to(device) * 2 - 1)
        z = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        decoded: torch.Tensor = vae.decode(z).sample
    return (decoded.float() / 2 + 0.5).clamp(0, 1).cpu()


def list_faces(paths: list[Path]) -> list[Path]:
    """Returns the photos among the paths and in the folders among the paths."""
    return [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path]) if file.is_file()]


def measure(vae: Any, files: list[Path], spec: str) -> dict[str, Any]:
    """Returns the figures of the reconstructions of all photos of SIZE x SIZE pixels."""
    judge, values = load_faces(spec), dict[str, list[float]]()
    # The time of a GPU is wall-clock time. The time of a CPU is processor time, because other programs may use the CPU.
    read_clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    for file in files:
        photo = decode(file)
        if photo.shape != (SIZE, SIZE, 3):
            print(f"{file} is not {SIZE} x {SIZE} px, so it is left out.", file=sys.stderr)
            continue
        image, faces, embeddings = to_tensor(photo)[None], [photo], [embed_face(photo, judge)]
        for bfloat16 in (False, True):
            began = read_clock()
            made = reconstruct(vae, image, bfloat16)
            name = "bf16" if bfloat16 else "fp32"
            values.setdefault(f"{name}_ms", []).append(1000 * (read_clock() - began))
            faces.append(round_to_levels((made[0] * 255).permute(1, 2, 0).numpy()))
            embeddings.append(embed_face(faces[-1], judge))
            values.setdefault(f"{name}_psnr", []).append(psnr(made, image)[0])
            values.setdefault(f"{name}_identity", []).append(float(embeddings[0] @ embeddings[-1]))
        levels = np.abs(faces[1].astype(float) - faces[2])
        values.setdefault("bf16_to_fp32_mean_levels", []).append(float(levels.mean()))
        values.setdefault("bf16_to_fp32_largest_levels", []).append(float(levels.max()))
        values.setdefault("bf16_to_fp32_identity", []).append(float(embeddings[1] @ embeddings[2]))
    if not values:
        sys.exit(f"None of the photos is {SIZE} x {SIZE} px: give aligned faces of this size.")
    figures = {
        name: {"mean": round(float(np.mean(row)), 4), "median": round(median(row), 4), "min": round(min(row), 4)}
        for name, row in values.items()
    }
    return {"faces": len(next(iter(values.values()))), "recognizer": judge.spec, "figures": figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="+", metavar="FACES")
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--faces", default="dlib", help="the recognizer (default: dlib)")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/light_ceiling.json")
    options = parser.parse_args()
    vae = load_autoencoder(options.vae).to("cuda" if torch.cuda.is_available() else "cpu")
    parameters = sum(weight.numel() for weight in vae.parameters())
    result = {"vae": options.vae.name, "kind": type(vae).__name__, "parameters": parameters}
    record_result("light_ceiling", {**result, **measure(vae, list_faces(options.photos), options.faces)}, options.keep)


if __name__ == "__main__":
    main()
