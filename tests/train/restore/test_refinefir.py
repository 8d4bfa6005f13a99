"""Tests `restore` with ReFineFIR's released layout: one reference for each face, and none is refused."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import train.models.released.refinefir
from manifests.errors import BadInput
from tests.doubles import curation as doubles
from tests.doubles.models.refinefir import (
    ENCODER,
    SHAPE,
    encode_identity,
    generate,
    make_encoder,
    make_generator,
    write_release,
)
from tests.doubles.models.restorers import Marking
from train.restore.load_restorer import load_restorer
from train.restore.references.reference_photos import References, read_references
from train.restore.restore_photos import restore


def test_one_reference_guides_each_face(
    marking: Marking, save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator, encoder = make_generator(), make_encoder()
    run = Path(f"refinefir:{write_release(tmp_path / 'release', generator, encoder)}")
    small = partial(train.models.released.refinefir.load_refinefir, shape=SHAPE, encoder=ENCODER)
    monkeypatch.setattr(train.models.released.refinefir, "load_refinefir", small)
    seen, notices = list[tuple[np.ndarray, References, np.ndarray]](), list[str]()
    photo, shown = save("two.png", [5, 6]), [save("r.png", [5], 1), save("s.png", [5], 2)]
    (row,) = restore(
        [photo], shown, run, tmp_path / "o", say=notices.append, on_face=lambda _, *face: seen.append(face)
    )
    # the face of the references gets the most similar reference, and the other face is kept
    (one,) = [face for face in row.faces if face.restored]
    (other,) = [face for face in row.faces if not face.restored]
    assert row.status == "ok" and len(one.references) == 1 and one.references[0].cosine_to_others is None
    assert ", the most similar of 2, because this restorer uses one reference." in one.sentence
    assert other.decision == "no_reference" and "needs a reference, and the face has none, because" in other.sentence
    assert len([notice for notice in notices if "a mesh of 468 points" in notice]) == 1
    # the generator read the warped reference, and the identity of the reference before the warp
    ((lq, read, restored),) = seen
    used = next(path for path in shown if str(path) == one.references[0].file)
    (whole,) = read_references([(used, None)], load_restorer(run), doubles.models("double"))
    crop = torch.from_numpy(whole.faces[0].crop).permute(2, 0, 1)[None] / 127.5 - 1
    identity = encode_identity(encoder, crop)
    assert float((read.embeddings - identity).abs().max()) < 1e-4
    images = torch.cat([torch.from_numpy(lq).permute(2, 0, 1)[None] / 127.5 - 1, 2 * read.crops - 1], 1)
    expected = (generate(generator, images, identity)[0].clamp(-1, 1) + 1).permute(1, 2, 0) * 127.5
    assert float((torch.from_numpy(restored) - expected).abs().max()) < 1
    # without a reference, nothing is restored
    with pytest.raises(BadInput, match="needs a reference: give a photo of the same person with --reference"):
        restore([photo], [], run, tmp_path / "p")
    assert not (tmp_path / "p").exists()
    with pytest.raises(BadInput, match="leave --base-model out"):
        load_restorer(run, "sd21")
    with pytest.raises(BadInput, match="trained for one step"):
        load_restorer(run, steps=2)
