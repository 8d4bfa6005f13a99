"""Tests `restore` with weights in ReFineFIR's layout: each face needs a reference, and only one reference is used."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import train.data.landmarks68
import train.data.mesh
import train.models.released.refinefir
import train.restore.restore_face
from manifests.errors import BadInput
from tests.doubles import curation as doubles
from tests.doubles.faces.mesh_points import mean_face
from tests.doubles.models.refinefir import (
    ENCODER,
    SHAPE,
    State,
    encode_identity,
    generate,
    make_encoder,
    make_generator,
    write_release,
)
from tests.doubles.models.restorers import Marking
from train.data.mesh import warp_by_mesh
from train.data.tensors import to_tensors
from train.restore.references.reference_photos import References, read_references
from train.restore.restore_photos import restore
from train.restore.restorers.load_restorer import load_restorer

Release = tuple[Path, State, State]  # the value of --run, the generator and the identity encoder


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Release:
    """Writes small weights in the released layout. The double of dlib finds the mean face in every crop."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator, encoder = make_generator(), make_encoder()
    small = partial(train.models.released.refinefir.load_refinefir, shape=SHAPE, encoder=ENCODER)
    monkeypatch.setattr(train.models.released.refinefir, "load_refinefir", small)
    monkeypatch.setattr(train.data.mesh, "find_68_points", lambda image: mean_face())
    return Path(f"refinefir:{write_release(tmp_path / 'release', generator, encoder)}"), generator, encoder


def test_one_reference_guides_each_face(
    marking: Marking, release: Release, save: Callable[..., Path], tmp_path: Path
) -> None:
    run, generator, encoder = release
    seen, notices = list[tuple[np.ndarray, References, np.ndarray]](), list[str]()
    photo, shown = save("two.png", [5, 6]), [save("r.png", [5], 1), save("s.png", [5], 2)]
    (row,) = restore(
        [photo], shown, run, tmp_path / "o", say=notices.append, on_face=lambda _, *face: seen.append(face)
    )
    # The face of the person gets the most similar reference, and the other face is kept.
    (one,) = [face for face in row.faces if face.restored]
    (other,) = [face for face in row.faces if not face.restored]
    assert row.status == "ok" and len(one.references) == 1 and one.references[0].cosine_to_others is None
    assert ", the most similar of 2, because this restorer uses one reference." in one.sentence
    assert other.decision == "no_reference" and "needs a reference, and the face has none, because" in other.sentence
    assert not any("landmarks" in notice for notice in notices)
    # The generator must read the warped reference, and the identity encoder the reference before the warp.
    ((lq, read, restored),) = seen
    used = next(path for path in shown if str(path) == one.references[0].file)
    (whole,) = read_references([(used, None)], load_restorer(run).config, doubles.models("double"))
    crop = torch.from_numpy(whole.faces[0].crop).permute(2, 0, 1)[None] / 127.5 - 1
    identity = encode_identity(encoder, crop)
    assert float(np.abs(read.embeddings - identity.numpy()).max()) < 1e-4
    points = whole.faces[0].landmarks
    assert points is not None and points.shape == (83, 2)
    assert np.abs(read.crops[0].astype(int) - warp_by_mesh(whole.faces[0].crop, points, points)).max() <= 1
    assert not read.crops[0, :8].any()  # the warped reference is black above the face
    images = torch.cat([2 * to_tensors(one) - 1 for one in (lq[None], read.crops)], 1)
    expected = (generate(generator, images, identity)[0].clamp(-1, 1) + 1).permute(1, 2, 0) * 127.5
    assert float((torch.from_numpy(restored) - expected).abs().max()) < 1
    # If no reference is given, the command ends with an error.
    with pytest.raises(BadInput, match="needs a reference: give a photo of the same person with --reference"):
        restore([photo], [], run, tmp_path / "p")
    assert not (tmp_path / "p").exists()
    with pytest.raises(BadInput, match="leave --base-model out"):
        load_restorer(run, "sd21")
    with pytest.raises(BadInput, match="--steps 2 needs a denoiser"):
        load_restorer(run, steps=2)


def test_a_restorer_that_was_trained_here_uses_references_without_landmarks_and_names_them(
    marking: Marking, save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train.data.mesh, "find_68_points", lambda image: mean_face() + 100)
    marking.config = replace(marking.config, parts=("maps", "mesh"))
    notices = list[str]()
    (row,) = restore([save("a.png", [5])], [save("r.png", [5], 1)], tmp_path, tmp_path / "o", say=notices.append)
    (face,) = row.faces
    assert face.restored and "r.png was not warped, because the landmarks for the warp were not found" in face.sentence
    assert "the references of this face were not warped" in str(row.reason)
    assert any("not found on 1 of 1 face in the references" in notice for notice in notices)


def test_faces_and_references_without_landmarks_are_counted_named_and_not_used(
    marking: Marking,
    release: Release,
    save: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, notices, lost = release[0], list[str](), set[int]()

    def find(image: np.ndarray) -> np.ndarray:
        """Returns the 68 points of a face. The points of the people in `lost` are wrong."""
        person = int(np.argmax([doubles.embed(image[None])[0] @ one / np.linalg.norm(one) for one in doubles.PEOPLE]))
        return mean_face() + (100 if person in lost else 0)

    monkeypatch.setattr(train.data.mesh, "find_68_points", find)
    photo = save("two.png", [5, 6])
    shown = [save("r.png", [5], 1), save("t.png", [6], 1)]
    lost.add(6)
    (row,) = restore([photo], shown, run, tmp_path / "o", say=notices.append)
    (one,) = [face for face in row.faces if face.restored]
    (other,) = [face for face in row.faces if not face.restored]
    assert row.status == "ok" and "with 1 reference (r.png" in one.sentence and other.decision == "no_reference"
    assert "t.png was left out, because the landmarks for the warp were not found" in other.sentence
    assert len([n for n in notices if "not found on 1 of 2 faces in the references" in n and "t.png" in n]) == 1
    # Now the landmarks of the references are found, but not those of the faces in the photo.
    lost.clear()
    points = train.restore.restore_face.find_warp_points
    monkeypatch.setattr(train.restore.restore_face, "find_warp_points", lambda *_: None)
    (row,) = restore([photo], shown, run, tmp_path / "p", say=notices.append, always=True)
    assert row.status == "kept" and {face.decision for face in row.faces} == {"no_landmarks"}
    assert all("the landmarks were not found." in face.sentence for face in row.faces)
    assert "were not found on 2 of 2 faces in the photos: these faces were kept." in notices[-1]
    monkeypatch.setattr(train.restore.restore_face, "find_warp_points", points)
    monkeypatch.setattr(train.data.mesh, "explain_missing", lambda: "dlib is not installed.")
    with pytest.raises(BadInput, match="68 landmarks of dlib"):
        restore([photo], shown, run, tmp_path / "q")
