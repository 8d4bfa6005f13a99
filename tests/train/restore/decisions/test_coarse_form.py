"""Tests that the result has the coarse form of a similar input, and the detail that the restorer adds."""

from __future__ import annotations

import numpy as np

from tests.doubles.pictures.textures import make_texture
from train.data.face_measures import describe_crop, measure_agreement
from train.restore.decisions.coarse_form import READABLE_SHARE, keep_coarse_form


def test_a_shift_of_colour_and_shading_is_undone_and_fine_detail_stays() -> None:
    crop = make_texture()
    face, size = describe_crop(crop, crop), crop.shape[0]
    shift = np.float32([12, -8, 5]) * np.linspace(0.5, 1, size, dtype=np.float32)[:, None, None]
    checks = 6 * ((np.indices((size, size)).sum(0) % 2) * 2 - 1)[..., None].astype(np.float32)
    kept = keep_coarse_form(face, crop + shift + checks, cosine=1.0, same_person=0.3)
    assert np.abs(kept - crop - checks).mean() < 0.05 * np.abs(shift).mean() + 0.2 * np.abs(checks).mean()
    as_levels = [np.clip(np.rint(image), 0, 255).astype(np.uint8) for image in (crop + shift, kept - checks)]
    assert measure_agreement(face, as_levels[1]) > measure_agreement(face, as_levels[0]) + 6


def test_an_input_in_which_the_person_is_not_found_corrects_nothing() -> None:
    crop = make_texture()
    restored = crop + np.float32(9)
    least = 0.3 + READABLE_SHARE * 0.7
    assert (keep_coarse_form(describe_crop(crop, crop), restored, least - 0.01, 0.3) == restored).all()
    assert (np.abs(keep_coarse_form(describe_crop(crop, crop), restored, least + 0.01, 0.3) - crop) < 1e-3).all()
