"""Restoring photos: which faces, where they go, what is said of the rest. The doubles' people are coloured squares."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import curate_doubles as doubles
import numpy as np
import pytest
import torch

import train.restore
from curate.faces.decode import decode
from manifests.errors import BadInput
from train.models.config import ModelConfig
from train.models.restorer import Restorer
from train.restore import LOG, restore, to_image, to_tensor

SIZE = 32


class Marking(torch.nn.Module):
    """Paints every face green, bright with references and dark without, so that a test sees what was restored."""

    def __init__(self) -> None:
        super().__init__()
        self.config = ModelConfig("tiny", SIZE, 4, (8, 8, 8), (8, 8, 8), 0, 3, 399)
        double = doubles.models("double")
        self.facts = {"recognizer": {"spec": "double", "sha256": double.recognizer_sha256()}}
        self.seen: list[int] = []

    def forward(
        self, lq: torch.Tensor, references: torch.Tensor, present: torch.Tensor, embeddings: torch.Tensor
    ) -> torch.Tensor:
        assert lq.shape[1:] == (3, SIZE, SIZE) and references.shape[2:] == (3, SIZE, SIZE)
        assert references.shape[1] == present.shape[1] == embeddings.shape[1]
        self.seen.append(references.shape[1])
        out = torch.zeros_like(lq)
        out[:, 1] = 1.0 if references.shape[1] else 0.5
        return out


@pytest.fixture
def marking(monkeypatch: pytest.MonkeyPatch) -> Marking:
    model = Marking()
    monkeypatch.setattr(train.restore, "load_faces", doubles.models)
    monkeypatch.setattr(Restorer, "from_pretrained", classmethod(lambda cls, folder: model))
    return model


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    return lambda name, people, seed=0: doubles.save(tmp_path / name, doubles.photo(people, seed))


def green(image: np.ndarray) -> np.ndarray:
    return (image[..., 1] > 100) & (image[..., 0] < 60) & (image[..., 2] < 60)


def test_without_references_every_face_is_restored_at_the_photos_own_size(
    marking: Marking, save: Callable[..., Path], tmp_path: Path
) -> None:
    photo = save("two.png", [0, 5])
    (row,) = restore([photo], [], tmp_path, tmp_path / "out")
    assert row.status == "ok" and [face.restored for face in row.faces] == [True, True] and marking.seen == [0, 0]
    result, before = decode(tmp_path / "out" / "two.png"), decode(photo)
    assert result.shape == before.shape
    assert green(result)[:, :180].any() and green(result)[:, 220:].any()
    assert (result[:, :1] == before[:, :1]).all()


def test_with_references_only_the_faces_that_match_are_restored(
    marking: Marking, save: Callable[..., Path], tmp_path: Path
) -> None:
    (row,) = restore(
        [save("two.png", [0, 5])], [save("r1.png", [5], 1), save("r2.png", [5], 2)], tmp_path, tmp_path / "o"
    )
    by_place = sorted(row.faces, key=lambda face: face.box[0])
    assert [face.restored for face in by_place] == [False, True] and marking.seen == [2]
    result = decode(tmp_path / "o" / "two.png")
    assert not green(result)[:, :160].any() and green(result)[:, 220:].any()


def test_none_that_matches_is_said_and_nothing_written(
    marking: Marking, save: Callable[..., Path], tmp_path: Path
) -> None:
    (row,) = restore([save("two.png", [0, 5])], [save("r.png", [9], 1)], tmp_path, tmp_path / "o")
    assert row.status == "dropped" and "None of the 2 faces" in str(row.reason) and "--box" in str(row.reason)
    assert not (tmp_path / "o" / "two.png").exists()


def test_a_face_alone_in_its_photo_is_restored_and_the_doubt_is_said(
    marking: Marking, save: Callable[..., Path], tmp_path: Path
) -> None:
    (row,) = restore([save("one.png", [0])], [save("r.png", [9], 1)], tmp_path, tmp_path / "o")
    assert row.status == "ok" and "too different" in str(row.reason)


def test_folders_keep_their_structure_and_every_file_gets_a_row(
    marking: Marking, save: Callable[..., Path], tmp_path: Path
) -> None:
    save("in/a/x.png", [0])
    save("in/b/x.png", [1])
    doubles.save(tmp_path / "in" / "b" / "x.jpg", doubles.photo([2], 0))
    save("in/nobody.png", [])
    (tmp_path / "in" / "letter.txt").write_text("hello")
    rows = restore([tmp_path / "in"], [], tmp_path, tmp_path / "out")
    assert {Path(row.photo).name: row.status for row in rows if row.status != "ok"} == {
        "nobody.png": "dropped",
        "letter.txt": "failed",
    }
    made = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")}
    assert made == {"a/x.png", "b/x.png.png", "b/x.jpg.png"}
    logged = [json.loads(line) for line in (tmp_path / "out" / LOG).read_text().splitlines()]
    assert len(logged) == len(rows) == 5 and all(row["reason"] for row in logged if row["status"] != "ok")


def test_a_box_points_at_a_face_that_no_detector_finds(
    marking: Marking, save: Callable[..., Path], tmp_path: Path
) -> None:
    dark = save("dark.png", [])
    (row,) = restore([dark], [save("r.png", [5], 1)], tmp_path, tmp_path / "o", box=(10, 10, 90, 100))
    assert row.status == "ok" and green(decode(tmp_path / "o" / "dark.png"))[40:70, 30:70].all()


def test_aligned_crops_come_back_at_the_restorers_size(
    marking: Marking, save: Callable[..., Path], tmp_path: Path
) -> None:
    for side in (SIZE // 2, SIZE, 5 * SIZE):
        doubles.save(tmp_path / "crops" / f"{side}.png", doubles.face(3, 1, side))
    doubles.save(tmp_path / "crops" / "wide.png", np.zeros((20, 40, 3), np.uint8))
    rows = restore([tmp_path / "crops"], [], tmp_path, tmp_path / "o", aligned=True)
    assert [row.status for row in rows].count("ok") == 3
    assert "not square" in str(next(row.reason for row in rows if row.status == "failed"))
    assert {decode(path).shape for path in (tmp_path / "o").glob("*.png")} == {(SIZE, SIZE, 3)}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"box": (1.0, 2.0, 0.0, 5.0)}, "x0 < x1"),
        ({"box": (0.0, 0.0, 9.0, 9.0), "aligned": True}, "no --aligned"),
        ({"faces": "other"}, "another"),
    ],
)
def test_bad_options_are_one_sentence(
    marking: Marking, save: Callable[..., Path], tmp_path: Path, change: dict[str, object], sentence: str
) -> None:
    with pytest.raises(BadInput, match=sentence):
        restore([save("one.png", [0])], [], tmp_path, tmp_path / "o", **change)  # type: ignore[arg-type]
    assert not (tmp_path / "o").exists()


def test_a_reference_without_a_face_and_an_input_that_would_be_overwritten(
    marking: Marking, save: Callable[..., Path], tmp_path: Path
) -> None:
    one = save("one.png", [0])
    with pytest.raises(BadInput, match=r"No face was found in the reference"):
        restore([one], [save("empty.png", [])], tmp_path, tmp_path / "o")
    before = one.read_bytes()
    with pytest.raises(BadInput, match="overwritten"):
        restore([one], [], tmp_path, tmp_path)
    assert one.read_bytes() == before


def test_pixels_survive_the_way_to_a_tensor_and_back() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    assert (to_image(to_tensor(image)) == image).all()
