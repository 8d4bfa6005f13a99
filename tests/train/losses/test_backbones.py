"""Tests in which folders the weights of backbones are found, and the messages if they cannot be loaded."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import get_model_weights, vgg16

from manifests.errors import BadInput
from tests.doubles.models.weights import random_vgg16
from train.losses.backbones import BACKBONES, fetch_weights, find_url, get_file_name, load_backbone


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_vgg16(tmp_path_factory.mktemp("weights"))


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes an empty cache, and switches the network off."""

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    return tmp_path / "hub"


@pytest.mark.parametrize("backbone", BACKBONES)
def test_files_come_from_torchvisions_addresses(backbone: str) -> None:
    assert find_url(backbone) == get_model_weights(backbone)["IMAGENET1K_V1"].url


def test_a_backbone_is_frozen_and_draws_no_random_numbers(folder: Path) -> None:
    state = torch.get_rng_state()
    features = load_backbone("vgg16", folder)
    assert torch.equal(torch.get_rng_state(), state)
    assert not features.training and not any(p.requires_grad for p in features.parameters())
    assert all(p.dtype == torch.float32 and p.device.type == "cpu" for p in features.parameters())
    held = torch.load(folder / get_file_name("vgg16"), weights_only=True)
    for name, value in features.state_dict().items():
        assert torch.equal(value, held[f"features.{name}"].float())
    assert features(torch.rand(1, 3, 32, 32)).shape == (1, 512, 1, 1)


def test_the_whole_network_and_bare_layers_load_too(folder: Path, tmp_path: Path) -> None:
    held = torch.load(folder / get_file_name("vgg16"), weights_only=True)
    bare = {name.removeprefix("features."): value for name, value in held.items()}
    for changed in (bare, held | {"classifier.0.weight": torch.zeros(2, 2), "classifier.0.bias": torch.zeros(2)}):
        torch.save(changed, tmp_path / get_file_name("vgg16"))
        assert torch.equal(load_backbone("vgg16", tmp_path)[0].weight, held["features.0.weight"].float())


def test_the_folder_comes_first_then_the_cache(folder: Path, hub: Path, tmp_path: Path) -> None:
    cached = hub / "checkpoints" / get_file_name("vgg16")
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert fetch_weights("vgg16", folder) == folder / get_file_name("vgg16")
    (tmp_path / "other").mkdir()
    assert fetch_weights("vgg16", tmp_path / "other") == fetch_weights("vgg16", None) == cached


def test_it_is_downloaded_into_the_cache_and_its_hash_is_checked(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def download(url: str, to: str, hash_prefix: str) -> None:
        asked.append((url, hash_prefix))
        Path(to).touch()

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert fetch_weights("vgg16", None) == hub / "checkpoints" / get_file_name("vgg16")
    assert asked == [("https://download.pytorch.org/models/vgg16-397923af.pth", "397923af")]


@pytest.mark.parametrize(
    "error", [OSError("no route to host"), RuntimeError('invalid hash value (expected "397923af")')]
)
def test_what_is_nowhere_is_one_sentence(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", fails)
    with pytest.raises(BadInput, match=r"put vgg16-397923af.pth \(from https://.*--weights FOLDER\.$") as caught:
        fetch_weights("vgg16", None)
    assert "\n" not in str(caught.value) and str(error) in str(caught.value)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nowhere is not a folder.*vgg16-397923af.pth"):
        fetch_weights("vgg16", tmp_path / "nowhere")


class Harm:
    """Creates a file when its pickle is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("content", ["text", "empty", "pickle", "list", "shape", "missing"])
def test_a_file_that_does_not_fit_is_one_sentence(folder: Path, tmp_path: Path, content: str) -> None:
    path = tmp_path / get_file_name("vgg16")
    held = torch.load(folder / get_file_name("vgg16"), weights_only=True)
    match content:
        case "text":
            path.write_text("not found")
        case "empty":
            path.touch()
        case "pickle":
            path.write_bytes(pickle.dumps({"features.0.weight": Harm(tmp_path / "harm")}, protocol=2))
        case "list":
            torch.save([1, 2], path)
        case "shape":
            torch.save(held | {"features.0.weight": torch.zeros(64, 1, 3, 3)}, path)
        case "missing":
            torch.save({name: value for name, value in held.items() if name != "features.28.bias"}, path)
    with pytest.raises(
        BadInput,
        match=r"does not contain torchvision's vgg16 weights .*replace this file by the file from https://.*pth\.$",
    ) as caught:
        load_backbone("vgg16", tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "harm").exists()


def test_the_double_has_torchvisions_layout(folder: Path) -> None:
    with torch.device("meta"):
        whole = vgg16()
    held = torch.load(folder / get_file_name("vgg16"), weights_only=True)
    assert {n: v.shape for n, v in held.items()} == {
        n: v.shape for n, v in whole.state_dict().items() if n.startswith("features.")
    }
