"""Tests the folder of `likeness export --format pretrained`: its restorer gives the same pixels, and its card is
true."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import typer
from diffusers import AutoencoderKL, UNet2DConditionModel
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from typer.testing import CliRunner

import train.export.cli
from manifests.errors import BadInput
from tests.doubles.models.saved import DIM, save_restorer
from tests.doubles.models.stable_diffusion import SHALLOW, write_mini_sd
from train.export.export_pretrained import LORA, export_pretrained
from train.models.restorer import Restorer


@torch.no_grad()
def restore(model: Restorer, size: int, references: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    lq, crops = torch.rand(1, 3, size, size, generator=draw), torch.rand(1, references, 3, size, size, generator=draw)
    embeddings = torch.nn.functional.normalize(torch.randn(1, references, DIM, generator=draw), dim=-1)
    return model(lq, crops, torch.ones(1, references, dtype=torch.bool), embeddings).image


def call_export(*words: object) -> tuple[str, BaseException | None]:
    app = typer.Typer()
    app.command()(train.export.cli.export)
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.stdout, result.exception


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Returns a run of recipe tiny with two results. Only one result is from the newest checkpoint."""
    folder = tmp_path / "secret-place" / "run"
    checkpoint = save_restorer(folder / "checkpoint-00000008", "tiny")
    config = json.loads((checkpoint / "config.json").read_text())
    config["recognizer"] |= {"spec": "insightface:/home/anna/pack", "licence": "research only"}
    (checkpoint / "config.json").write_text(json.dumps({**config, "images": 8}))
    counts = {"people": {"train": 5, "val": 1}, "targets": {"train": 50, "val": 9}}
    recipe = {"preset": "codeformer", "losses": {"pixel": 2.5, "edge": 1}, "batch": 4}
    (folder / "config.json").write_text(json.dumps({"snapshot": {"counts": counts}, "recipe": recipe, "seed": 7}))
    for number, psnr in ((8, 21.5), (4, 19.25)):
        row = {"key": "4", "system": "4 references", "psnr": {"mean": psnr}, "ssim": {"mean": None}}
        result = {"checkpoint": f"checkpoint-{number:08}", "lq_set": "codeformer-test", "images": 9, "rows": [row]}
        (folder / f"evaluation-{number}.json").write_text(json.dumps(result))
    return folder


def test_the_folder_restores_the_same_pixels_and_the_card_says_what_was_recorded(run: Path, tmp_path: Path) -> None:
    expected = restore(Restorer.from_pretrained(run), 32, 2)
    out = tmp_path / "out"
    text, _ = call_export("--run", run, "--format", "pretrained", "--out", out)
    assert "wrote README.md, config.json, model.safetensors into" in text and "state a licence" in text
    shutil.rmtree(run)
    shutil.move(out, tmp_path / "elsewhere")
    model = Restorer.from_pretrained(tmp_path / "elsewhere")
    assert torch.equal(restore(model, 32, 2), expected)
    assert not torch.equal(restore(model, 32, 0), expected)  # the references change the pixels
    assert model.facts["recognizer"]["spec"] == "insightface:pack"
    card = ModelCard.load(tmp_path / "elsewhere" / "README.md")
    facts = card.data.to_dict()
    assert facts["library_name"] == "likeness" and facts["license"] == "other" and "base_model" not in facts
    for words in (
        "| images seen | 8 |",
        "| people (train, val, test) | 5, 1, 0 |",
        "| losses | edge 1, pixel 2.5 |",
        "| seed | 7 |",
        "| version of Likeness | not recorded |",
        "| 4 references | 21.50 | - |",
        "research only",
        "5 people",
        "Do not use a restored face to identify a person",
    ):
        assert words in card.content, words
    assert "19.25" not in card.content  # the result of another checkpoint
    for path in (tmp_path / "elsewhere").iterdir():
        assert b"anna" not in path.read_bytes() and b"secret-place" not in path.read_bytes()


def test_a_restorer_on_a_diffusion_base_takes_the_base_along(tmp_path: Path) -> None:
    base = write_mini_sd(tmp_path / "sd", SHALLOW)
    run = save_restorer(tmp_path / "run" / "checkpoint-00000008", "osdface", str(base))
    model, out = Restorer.from_pretrained(run), tmp_path / "out"
    expected, weights = restore(model, 64, 0), model.weights()
    listed, _ = call_export("--run", run, "--format", "pretrained", "--out", out, "--dry-run")
    assert LORA in listed and "unet/" in listed and not out.exists()
    written = export_pretrained(run, out)
    again = export_pretrained(run, tmp_path / "again")
    assert written.files == again.files and "vae/diffusion_pytorch_model.safetensors" in written.files
    for name in written.files:
        assert (out / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
        assert str(tmp_path).encode() not in (out / name).read_bytes(), name
    shutil.rmtree(base)
    shutil.rmtree(run)
    assert torch.equal(restore(Restorer.from_pretrained(out), 64, 0), expected)
    # diffusers can read the base and the adapters of its UNet.
    AutoencoderKL.from_pretrained(out, subfolder="vae")
    unet = UNet2DConditionModel.from_pretrained(out, subfolder="unet")
    unet.load_lora_adapter(load_file(out / LORA), prefix="unet")
    loaded = {name: weight for name, weight in unet.named_parameters() if "lora" in name}
    assert loaded and all(
        torch.equal(weight, weights["base.unet." + name.replace(".default_0.", ".default.")])
        for name, weight in loaded.items()
    )
    shutil.rmtree(out / "unet")
    with pytest.raises(BadInput, match="lacks the folder unet of its base: copy the whole folder again"):
        Restorer.from_pretrained(out)


def test_wrong_input_is_one_sentence(run: Path, tmp_path: Path) -> None:
    out, full = tmp_path / "out", tmp_path / "full"
    full.mkdir()
    (full / "file").touch()
    for words, reason in (
        (("--run", "osdface:weights", "--out", out), "weights that others released: share the files of their authors"),
        (("--run", run, "--out", out, "--precision", "int8"), "is for --format onnx: leave --precision out"),
        (("--run", run, "--out", out, "--base-model", "sd"), "a part of Likeness: leave --base-model out"),
        (("--run", run, "--out", full), "is not empty: give a new or an empty folder"),
        (("--run", tmp_path / "nothing", "--out", out), "contains no checkpoint"),
    ):
        _, error = call_export("--format", "pretrained", *words)
        assert isinstance(error, BadInput) and reason in str(error) and "\n" not in str(error)
    assert not out.exists()
