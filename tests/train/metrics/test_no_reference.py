"""Tests that our calls of pyiqa give the same values as direct calls. The two kinds of calls use the same random
weights. Needs the package pyiqa."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
import torch

from manifests.errors import BadInput
from train.metrics.networks.no_reference import WEIGHTS, explain_missing, load_no_reference


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("a download"))


def pictures(size: int) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(0)) / 255


def niqe_parameters(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    spread = rng.normal(size=(36, 40))
    content = {"mu_prisparam": rng.normal(1, 0.3, (1, 36)), "cov_prisparam": spread @ spread.T / 40}
    scipy.io.savemat(folder / WEIGHTS["niqe"].file, content)
    return folder / WEIGHTS["niqe"].file


def test_without_pyiqa_the_reason_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in WEIGHTS:
        assert explain_missing(name, tmp_path) == "pyiqa is not installed: pip install 'likeness[iqa]'."
        with pytest.raises(BadInput, match=rf"^{name} cannot be computed: pyiqa"):
            load_no_reference(name, tmp_path)


def test_without_weights_the_reason_says_which_file(tmp_path: Path) -> None:
    pytest.importorskip("pyiqa")
    for name, needed in WEIGHTS.items():
        reason = explain_missing(name, tmp_path)
        assert reason is not None and reason.startswith(needed.file) and reason.endswith("--weights FOLDER.")
        assert needed.url in reason and reason == explain_missing(name, None)
    assert len({needed.file for needed in WEIGHTS.values()}) == 4


def test_the_files_are_those_that_pyiqa_loads() -> None:
    pytest.importorskip("pyiqa")
    from pyiqa.archs import clip_model, maniqa_arch, musiq_arch, niqe_arch

    assert WEIGHTS["niqe"].url == niqe_arch.default_model_urls["niqe"]
    assert WEIGHTS["musiq"].url == musiq_arch.default_model_urls["koniq10k"]
    assert WEIGHTS["maniqa"].url == maniqa_arch.default_model_urls["koniq"]
    assert WEIGHTS["clipiqa"].url == clip_model._MODELS["RN50"]


def test_a_file_that_does_not_fit_is_a_sentence(tmp_path: Path) -> None:
    pytest.importorskip("pyiqa")
    for name, needed in WEIGHTS.items():
        (tmp_path / needed.file).write_text("not found")
        with pytest.raises(BadInput, match=f"does not contain the weights of pyiqa's {name} ") as caught:
            load_no_reference(name, tmp_path)
        assert "\n" not in str(caught.value)


def test_niqe_is_pyiqas(tmp_path: Path) -> None:
    pyiqa = pytest.importorskip("pyiqa")
    path, images = niqe_parameters(tmp_path), pictures(192)
    theirs = pyiqa.create_metric("niqe", device="cpu", pretrained_model_path=str(path))(images)
    judged = load_no_reference("niqe", tmp_path)
    assert judged(images) == pytest.approx(theirs.flatten().tolist(), abs=1e-5)
    assert judged(images[:1]) == pytest.approx(judged(images)[:1], abs=1e-5)


def test_musiq_is_pyiqas(tmp_path: Path) -> None:
    pyiqa = pytest.importorskip("pyiqa")
    from pyiqa.archs.musiq_arch import MUSIQ

    torch.manual_seed(0)
    path, images = tmp_path / WEIGHTS["musiq"].file, pictures(96)
    torch.save(MUSIQ(pretrained=False).state_dict(), path)
    theirs = pyiqa.create_metric("musiq", device="cpu", pretrained_model_path=str(path))(images)
    found = load_no_reference("musiq", tmp_path)(images)
    assert found == pytest.approx(theirs.flatten().tolist(), abs=1e-5) and found[0] != found[1]


@pytest.mark.filterwarnings("ignore")  # torch.jit.trace gives warnings
def test_clip_iqa_is_pyiqas(tmp_path: Path) -> None:
    pyiqa = pytest.importorskip("pyiqa")
    from pyiqa.archs.clip_model import CLIP

    torch.manual_seed(0)
    # A small CLIP, saved as TorchScript like OpenAI's file.
    small = CLIP(16, 64, (1, 1, 1, 1), 16, None, 77, 49408, 64, 1, 1).eval()
    traced = torch.jit.trace(small, (torch.zeros(1, 3, 64, 64), torch.ones(1, 77, dtype=torch.long)))
    path, images = tmp_path / WEIGHTS["clipiqa"].file, pictures(96)
    torch.jit.save(traced, str(path))
    theirs = pyiqa.create_metric("clipiqa", device="cpu", backbone=str(path))(images)
    found = load_no_reference("clipiqa", tmp_path)(images)
    assert found == pytest.approx(theirs.flatten().tolist(), abs=1e-5) and found[0] != found[1]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_maniqa_is_pyiqas_and_asks_for_no_other_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyiqa")
    import timm
    from pyiqa.archs.maniqa_arch import MANIQA

    create, asked = timm.create_model, []

    def recorded(model: str, pretrained: bool = False) -> torch.nn.Module:
        asked.append(pretrained)
        return create(model, pretrained=False)

    monkeypatch.setattr(timm, "create_model", recorded)
    torch.manual_seed(0)
    theirs = MANIQA(pretrained=False, train_dataset="koniq", scale=0.8, test_sample=1).eval()
    asked.clear()
    torch.save(
        {f"module.{name}": value for name, value in theirs.state_dict().items()}, tmp_path / WEIGHTS["maniqa"].file
    )
    judged = load_no_reference("maniqa", tmp_path)
    assert asked == [False] and timm.create_model is recorded
    network = judged.__closure__[0].cell_contents.net  # type: ignore[index]
    assert network.test_sample == 20
    network.test_sample = 1
    images = pictures(224)[:1]
    with torch.inference_mode():
        assert judged(images) == pytest.approx(theirs(images).flatten().tolist(), abs=1e-5)


@pytest.mark.shared_data
def test_niqe_of_photos_is_pyiqas_and_a_blurred_photo_is_worse(shared_data: Path, tmp_path: Path) -> None:
    pyiqa = pytest.importorskip("pyiqa")
    with np.load(shared_data / "weights" / "niqe_pris_params.npz") as held:
        content = {"mu_prisparam": held["mu_pris_param"], "cov_prisparam": held["cov_pris_param"]}
    scipy.io.savemat(tmp_path / WEIGHTS["niqe"].file, content)
    judged = load_no_reference("niqe", tmp_path)
    parameters = str(tmp_path / WEIGHTS["niqe"].file)
    theirs = pyiqa.create_metric("niqe", device="cpu", pretrained_model_path=parameters)
    for path in sorted((shared_data / "people_crops").glob("*/*.jpg"))[::400]:
        photo = cv2.imread(str(path))[:, :, ::-1]
        both = np.stack([photo, cv2.GaussianBlur(photo, (0, 0), 3)]).transpose(0, 3, 1, 2)
        sharp, blurred = judged(torch.from_numpy(both.copy()) / 255)
        assert sharp < blurred
        # pyiqa computes the same value if it reads the photo from its file.
        assert sharp == pytest.approx(float(theirs(str(path))), abs=1e-4)
