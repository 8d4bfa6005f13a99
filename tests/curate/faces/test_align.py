"""Tests the laws of similarity transforms, the position of pixel centres, and crops of different templates."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from curate.faces.align import (
    ARCFACE_112,
    FFHQ_512,
    FFHQ_SIZE,
    OUTSIDE,
    align_face,
    compute_scale,
    crop_for_recognizer,
    find_valid_pixels,
    fit_similarity,
    invert_affine,
    scale_template,
    transform_points,
    warp,
)

NUMBER = st.floats(-200, 200, allow_nan=False)
POINTS = st.lists(st.tuples(NUMBER, NUMBER), min_size=5, max_size=5).map(np.array)
TURN = st.tuples(st.floats(0.05, 20), st.floats(-np.pi, np.pi), NUMBER, NUMBER)


def matrix_of(scale: float, angle: float, x: float, y: float) -> np.ndarray:
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, x], [s, c, y]])


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    bands = [np.sin(x / 37 + y / 59), np.cos(x / 43), np.sin(y / 39 - x / 61)]
    return (np.dstack(bands) * 100 + 128).astype(np.uint8)


@given(POINTS, TURN)
def test_a_similarity_is_found_exactly(points, turn):
    assume(np.ptp(points, axis=0).max() > 1)
    wanted = matrix_of(*turn)
    found = fit_similarity(points, transform_points(points, wanted))
    assert np.allclose(found, wanted, atol=1e-6 * turn[0] * 200)
    assert np.isclose(compute_scale(found), turn[0])


@given(POINTS, POINTS)
def test_it_is_the_best_there_is_and_never_a_reflection(source, target):
    assume(np.ptp(source, axis=0).max() > 1)
    found = fit_similarity(source, target)
    assert np.isclose(found[0, 0], found[1, 1]) and np.isclose(found[0, 1], -found[1, 0])

    def misses(matrix: np.ndarray) -> float:
        return float(((transform_points(source, matrix) - target) ** 2).sum())

    best = misses(found)
    for nudge in (0.01, -0.01):
        for entry in ((0, 2), (1, 2)):
            moved = found.copy()
            moved[entry] += nudge
            assert misses(moved) >= best - 1e-6 * (1 + best)
        turned = found.copy()
        turned[:, :2] *= 1 + nudge
        assert misses(turned) >= best - 1e-6 * (1 + best)


@given(POINTS, TURN)
def test_there_and_back_is_where_one_was(points, turn):
    matrix = matrix_of(*turn)
    assert np.allclose(
        transform_points(transform_points(points, matrix), invert_affine(matrix)),
        points,
        atol=1e-6 * 400 / turn[0] + 1e-6,
    )


def test_points_that_make_no_face_are_refused():
    with pytest.raises(ValueError, match="coincide"):
        fit_similarity(np.ones((5, 2)), FFHQ_512)
    for bad in (np.nan, np.inf):
        broken = FFHQ_512.copy()
        broken[2, 1] = bad
        with pytest.raises(ValueError, match="finite"):
            fit_similarity(broken, FFHQ_512)


def test_identity_and_whole_shifts_copy_pixels_exactly():
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    assert (warp(image, np.eye(2, 3), 40) == image).all()
    assert (warp(image, np.array([[1.0, 0, -7], [0, 1, -3]]), 30) == image[3:33, 7:37]).all()


@pytest.mark.parametrize("factor", [2, 4, 3])
def test_shrinking_by_a_whole_factor_is_the_mean_of_its_block(factor):
    side = 24 * factor
    image = np.random.default_rng(factor).integers(0, 256, (side, side, 3), np.uint8)
    # The first pixel of the result must be at the centre of the first block: (u + .5) / factor - .5.
    matrix = np.array([[1 / factor, 0, 0.5 / factor - 0.5], [0, 1 / factor, 0.5 / factor - 0.5]])
    blocks = image.reshape(24, factor, 24, factor, 3).mean((1, 3))
    assert np.abs(warp(image, matrix, 24) - blocks).max() <= 0.51


def test_enlarging_keeps_centres_where_they_are():
    x = np.arange(50, dtype=np.float32)
    ramp = np.repeat(np.repeat(x[None, :, None] * 4, 50, 0), 3, 2).astype(np.uint8)
    found = warp(ramp, np.array([[2.0, 0, 0.5], [0, 2.0, 0.5]]), 90)
    assert np.abs(found[40, 4:80, 0] - (((np.arange(4, 80) + 0.5) / 2 - 0.5) * 4)).max() <= 1


@pytest.mark.parametrize("scale", [0.31, 0.77, 1.0, 2.3])
def test_landmarks_land_on_the_template(scale):
    # The photo has a dot at each landmark. The dots are wide enough to stay visible when the photo is shrunk. In the
    # crop, each dot must be within a fraction of a pixel of the template.
    landmarks = transform_points(FFHQ_512, matrix_of(1 / scale, 0.2, 90, 15)).astype(np.float32)
    side = int(landmarks.max() + 200)
    y, x = np.mgrid[:side, :side]
    image = np.zeros((side, side, 3), np.float32)
    for point in landmarks:
        image += 255 * np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / (2 * (6 / scale) ** 2))[..., None]
    crop = align_face(image.clip(0, 255).astype(np.uint8), landmarks, FFHQ_512, FFHQ_SIZE).astype(float)[..., 0]
    for px, py in FFHQ_512:
        x0, y0 = round(px) - 20, round(py) - 20
        window = crop[y0 : y0 + 41, x0 : x0 + 41]
        gy, gx = np.mgrid[y0 : y0 + 41, x0 : x0 + 41]
        centre = np.array([(gx * window).sum(), (gy * window).sum()]) / window.sum()
        assert np.abs(centre - (px, py)).max() < 0.15


def test_a_template_at_another_size_honours_centres():
    assert np.allclose(scale_template(FFHQ_512, 512, 512), FFHQ_512)
    assert np.allclose(scale_template(np.array([[-0.5, 511.5]]), 512, 128), [[-0.5, 127.5]])


def test_between_two_templates_is_the_fixed_similarity():
    assert np.allclose(fit_similarity(FFHQ_512, FFHQ_512), np.eye(2, 3))
    there = transform_points(FFHQ_512, fit_similarity(FFHQ_512, ARCFACE_112))
    # the templates need not agree exactly, because they are two different mean faces
    assert np.abs(there - ARCFACE_112).max() < 3
    assert 0.2 < compute_scale(fit_similarity(FFHQ_512, ARCFACE_112)) < 0.35


@pytest.mark.parametrize("size", [512, 256, 128])
@pytest.mark.parametrize(("angle", "scale"), [(0.0, 1.0), (0.4, 0.9), (-0.5, 1.3)])
def test_a_recognition_crop_is_the_direct_alignment(size, angle, scale):
    landmarks = transform_points(FFHQ_512, matrix_of(scale, angle, 150, 100))
    photo = smooth(800, 900)
    crop = align_face(photo, landmarks, scale_template(FFHQ_512, 512, size), size)
    # `through` is cut from the crop. `straight` is cut from the photo directly. In both images, the landmarks of the
    # template FFHQ_512 are at the same points.
    through = crop_for_recognizer(crop, ARCFACE_112, 112)
    straight = align_face(photo, landmarks, transform_points(FFHQ_512, fit_similarity(FFHQ_512, ARCFACE_112)), 112)
    assert np.abs(through.astype(int) - straight)[6:-6, 6:-6].mean() < 1.0


@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi])
@pytest.mark.parametrize("scale", [0.2, 0.8, 2.5])
def test_what_lies_outside_the_photo_is_a_constant_and_not_valid(scale, angle):
    height, width = (60, 50) if scale < 1 else (900, 700)
    image = np.full((height, width, 3), 200, np.uint8)
    landmarks = transform_points(FFHQ_512, matrix_of(scale, angle, width * 0.3, height * 0.4))
    crop = align_face(image, landmarks, FFHQ_512, FFHQ_SIZE)
    valid = find_valid_pixels(landmarks, width, height, FFHQ_SIZE)
    own = (crop == 200).all(-1)
    outside = (crop == OUTSIDE).all(-1)
    assert own[valid].all() and not valid[outside].any()
    # Only the pixels of a thin seam may belong to neither area.
    assert outside.any() and valid.any() and (own & ~valid).mean() < 0.05
