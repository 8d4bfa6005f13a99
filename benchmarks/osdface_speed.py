"""Compares the speed of OSDFace's order of operations with ours, on the same weights in the same run, at 512 px.

    python benchmarks/osdface_speed.py [--repeats 3] [--mini] [--keep]

The weights are random, in the shape of OSDFace's release and of Stable Diffusion 2.1-base. Real weights would take the
same time. The differences between the outputs say little about real faces, and nothing about identity. `published`
computes infer.py's order in float32 (benchmarks/published_osdface.py). `fp32` and `bf16` are what `likeness restore`
computes. `light` is `bf16` on a light base in TAESD's shape. All systems run on the GPU if the machine has a GPU, and
else on the CPU.

Each system is compared with `published` alone, and each runs in a process of its own. After a warm-up, the two systems
restore the same picture one after the other, `--repeats` times. A row has the median of the seconds, the ratio to
`published` in the same comparison, the median of the seconds of each part, the peak memory of the process, and the
difference of the output from the output of `published`. `output_sd` is the standard deviation of the output, in levels
of 0..255. `other_tokens` is the number of tokens of the prompt that are not equal to any token of `published`. Such a
token appears if rounding changes the nearest code of a position. `light` computes another function, so its output is
not compared. `--mini` makes all networks small, to try the benchmark.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from published_osdface import PublishedOsdface
from record_result import record_result
from safetensors.torch import save_file

from train.models.bases.diffusion import ADAPTED
from train.models.config import VreConfig
from train.models.prompts.vq import VQ
from train.models.prompts.vre import Projection
from train.models.released.osdface import EMBEDDER, LORA, PROJECTION, load_osdface
from train.restore.restorers.load_restorer import speed_up_on_cpu
from train.restore.restorers.run_restorer import choose_precision

SYSTEMS = ("published", "fp32", "bf16", "light")
RANK = 16
RELEASE = VreConfig(512, 64, (1, 2, 2, 2, 4, 8), 1024, 512, 77, doubly_normalised=True)
MINI = VreConfig(512, 32, (1, 1, 1, 1, 1, 1), 1024, 32, 77, doubly_normalised=True)
# A token differs if its mean distance from each token of `published` is above OTHER_TOKEN times the standard deviation
# of the prompt of `published`.
OTHER_TOKEN = 0.1
SPREAD = 0.02  # the standard deviation of the random adapters


def write_weights(folder: Path, mini: bool) -> None:
    """Writes the full base, the light base and the released files, all with random weights."""
    if mini:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `tests` is not installed
        from tests.doubles.models.stable_diffusion import write_mini_sd

        write_mini_sd(folder / "full", unet={"cross_attention_dim": 1024})
    else:
        from random_sd21 import write_random_sd21

        write_random_sd21(folder / "full")
    (folder / "light").mkdir()
    for part in ("unet", "scheduler"):
        (folder / "light" / part).symlink_to(folder / "full" / part)
    torch.manual_seed(1)
    AutoencoderTiny().save_pretrained(folder / "light" / "vae")
    (folder / "release").mkdir()
    config = UNet2DConditionModel.load_config(folder / "full", subfolder="unet")
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(config)
    lora = {}
    for name, weight in unet.named_parameters():
        layer = name.removesuffix(".weight")
        if weight.ndim == 2 and layer.endswith(tuple(ADAPTED)):
            lora[f"unet.{layer}.lora_A.weight"] = SPREAD * torch.randn(RANK, weight.shape[1])
            lora[f"unet.{layer}.lora_B.weight"] = SPREAD * torch.randn(weight.shape[0], RANK)
    save_file(lora, folder / "release" / LORA)
    shape = MINI if mini else RELEASE
    embedder = VQ(shape, decodes=False)
    with torch.no_grad():
        # The codes are near outputs of the encoder, so that rounding rarely changes the nearest code of an output.
        made = [embedder.encode(torch.rand(1, 3, 512, 512) * 4 - 3)[0].flatten(1).t() for _ in range(4)]
        codes = torch.cat(made)[: shape.codes]
        embedder.quantize.embedding.weight.copy_(codes + 0.05 * codes.std() * torch.randn_like(codes))
    state = {f"vqvae_LQ.{name}": tensor for name, tensor in embedder.state_dict().items()}
    torch.save({"state_dict": state}, folder / "release" / EMBEDDER)
    torch.save(Projection(shape.dim, 1024).state_dict(), folder / "release" / PROJECTION)


def load_system(
    name: str, folder: Path
) -> tuple[Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]], dict[str, Any]]:
    """Returns a function and the parts whose time is measured.

    The function restores an image (1,3,512,512) in 0..1, and returns the restored image and the prompt (1,77,1024).
    The images are on the CPU, and the networks are on the GPU if the machine has a GPU.
    """
    device = choose_device()
    if name == "published":
        published = PublishedOsdface(folder / "release", str(folder / "full"), device)
        vae = published.vae

        def restore_published(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            restored, prompt = published.restore(image.to(device))
            return restored.cpu(), prompt.cpu()

        return restore_published, {"encoder": vae.encoder, "unet": published.unet, "decoder": vae.decoder}
    model = load_osdface(folder / "release", str(folder / ("light" if name == "light" else "full"))).to(device)
    precision = choose_precision(model, "fp32" if name == "fp32" else "bf16")
    speed_up_on_cpu(model, precision)
    nobody = [torch.zeros(1, 0, 3, 8, 8), torch.zeros(1, 0, dtype=torch.bool), torch.zeros(1, 0, 0)]
    nobody = [tensor.to(device) for tensor in nobody]

    @torch.inference_mode()
    def restore(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            done = model(image.to(device), *nobody)
        assert done.prompt is not None
        return done.image.cpu(), done.prompt.cpu()

    base = model.base
    return restore, {"encoder": base.vae.encoder, "unet": base.unet, "decoder": base.vae.decoder}


def choose_device() -> str:
    """Returns the device on which the systems run: cuda, or cpu without a GPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def read_clock() -> float:
    """Returns the time in seconds, after the GPU has computed everything."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def serve(name: str, folder: Path) -> None:
    """Restores the picture once for each line of the standard input, and prints the seconds as JSON."""
    restore, parts = load_system(name, folder)
    seconds = dict.fromkeys(parts, 0.0)

    def start(part: str) -> None:
        seconds[part] = -read_clock()

    def stop(part: str) -> None:
        seconds[part] += read_clock()

    for part, module in parts.items():
        module.register_forward_pre_hook(lambda *_, part=part: start(part))
        module.register_forward_hook(lambda *_, part=part: stop(part))
    image = torch.nn.functional.interpolate(
        torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)), (512, 512), mode="bicubic"
    ).clamp(0, 1)
    for _ in sys.stdin:
        began = read_clock()
        restored, prompt = restore(image)
        whole = read_clock() - began
        np.savez(folder / f"{name}.npz", image=restored.float().numpy(), prompt=prompt[0].float().numpy())
        rest = whole - sum(seconds.values())
        rounded = {part: round(value, 4) for part, value in {**seconds, "embedder_and_rest": rest}.items()}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        figures = {"seconds": whole, "parts": rounded, "peak_rss_gib": round(peak, 2)}
        if torch.cuda.is_available():
            figures["peak_gpu_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        print(json.dumps(figures), flush=True)


def compare(folder: Path, repeats: int) -> list[dict[str, Any]]:
    """Compares each system with `published`, and returns two rows for each comparison: first the row of `published`.

    Only two systems are in memory at a time. The four systems together need more than 24 GiB.
    """
    rows = []
    for name in SYSTEMS[1:]:
        calls = run_alternately(("published", name), folder, repeats)
        outputs = {system: np.load(folder / f"{system}.npz") for system in calls}
        base = median(call["seconds"] for call in calls["published"])
        for system in calls:
            seconds = [call["seconds"] for call in calls[system]]
            row = {
                "system": system,
                "beside": name if system == "published" else "published",
                "seconds_per_face": round(median(seconds), 4),
                "ratio_to_published": round(median(seconds) / base, 3),
                "seconds_of_each_call": [round(one, 4) for one in seconds],
                "seconds_of_parts": {
                    part: round(median(call["parts"][part] for call in calls[system]), 3)
                    for part in calls[system][0]["parts"]
                },
                "peak_rss_gib": calls[system][-1]["peak_rss_gib"],
                "peak_gpu_gib": calls[system][-1].get("peak_gpu_gib"),
                "output_sd": round(float(outputs[system]["image"].std()) * 255, 2),
            }
            if system in ("fp32", "bf16"):
                row |= compare_outputs(outputs[system], outputs["published"])
            rows.append(row)
    return rows


def run_alternately(systems: Sequence[str], folder: Path, repeats: int) -> dict[str, list[dict[str, Any]]]:
    """Returns what each system printed in each call. The systems restore the picture one after the other, `repeats`
    times, after a warm-up."""
    command = [sys.executable, __file__, "--folder", str(folder), "--serve"]
    processes = {
        name: subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in systems
    }
    calls: dict[str, list[dict[str, Any]]] = {name: [] for name in systems}
    for number in range(repeats + 1):
        for name, process in processes.items():
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("restore\n")
            process.stdin.flush()
            calls[name].append(json.loads(process.stdout.readline()))
            print(f"call {number} of {name}: {calls[name][-1]}", file=sys.stderr)
    for process in processes.values():
        process.communicate()
    return {name: figures[1:] for name, figures in calls.items()}


def compare_outputs(ours: Mapping[str, np.ndarray], published: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns how far an output, with the entries "image" and "prompt", is from the output of `published`."""
    difference = np.abs(ours["image"] - published["image"])
    distances = np.abs(ours["prompt"][:, None] - published["prompt"]).mean(-1)
    return {
        "largest_difference": float(difference.max()),
        "mean_levels": float(difference.mean()) * 255,
        "other_tokens": int((distances.min(1) > OTHER_TOKEN * published["prompt"].std()).sum()),
    }


def measure(mini: bool, repeats: int) -> dict[str, Any]:
    """Returns the facts of the machine, and a row for each system. `mini` makes all networks small."""
    with tempfile.TemporaryDirectory() as name:
        write_weights(Path(name), mini)
        rows = compare(Path(name), repeats)
    bfloat16, amx = torch.cpu._is_avx512_bf16_supported(), torch.cpu._is_amx_tile_supported()
    facts = {"device": choose_device(), "bfloat16_in_cpu": bfloat16, "amx": amx, "mini": mini}
    return {**facts, "threads": torch.get_num_threads(), "torch": torch.__version__, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--mini", action="store_true")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/osdface_speed.json")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error("--repeats must be 1 or more.")
    if options.serve:
        serve(options.serve, options.folder)
        return
    record_result("osdface_speed", measure(options.mini, options.repeats), options.keep)


if __name__ == "__main__":
    main()
