"""Change the samples of a photo in the colours, the depth and the orientation in which the file stores them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from manifests.pictures.colour_profiles import BrokenProfile, own_conversion
from manifests.pictures.images import Picture, turn_upright
from manifests.pictures.original_samples import Original, find_white
from train.restore.pasting.paste import LUMA, Patch, blend_patches

# If a value, in levels of 0 to 255, changes by less than this number (ours), the change counts as no change, because
# float32 has errors of this size.
_NO_CHANGE = 1e-3
# In a partly transparent pixel, the change is divided by alpha, or by this number (ours) if alpha is smaller.
_MIN_ALPHA = 0.25
# The matrix that turns a change of R, G, B into a change of Y, Cb, Cr (JFIF 1.02).
_TO_YCC = np.array([LUMA, [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32).T
# Maps an EXIF orientation to the orientation that undoes it.
_UNDO = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}


def change_samples(picture: Picture, patches: Sequence[Patch]) -> tuple[Original, np.ndarray] | None:
    """Returns the original with changed samples, and a mask of the faces. Returns None if no sample changes.

    `picture` was decoded with `keep_original`. The mask is bool (H, W), where the samples have H rows and W columns.
    Neither alpha nor the samples outside the mask change. A broken colour profile is ignored, as in the decoder.
    """
    original = picture.original
    assert original is not None
    samples = original.samples.copy()
    planes = None if original.jpeg is None or original.jpeg.planes is None else original.jpeg.planes.copy()
    mask, changed = np.zeros(samples.shape[:2], bool), False
    convert = _choose_conversion(original)
    unit = find_white(samples) / 255
    for patch in blend_patches(patches):
        height, width = patch.weight.shape
        place = np.s_[patch.y : patch.y + height, patch.x : patch.x + width]
        before = _turn_back(picture.rgb[place], original)
        change = _turn_back(patch.change * patch.weight[..., None], original)
        change[np.abs(change) < _NO_CHANGE] = 0
        own_place = _find_place(patch, original, picture.rgb.shape[1], picture.rgb.shape[0])
        mask[own_place] |= _turn_back(patch.weight, original) > 0
        delta = convert(before.astype(np.float32), change, samples[own_place])
        updated = _add(samples[own_place], delta * unit)
        changed = changed or not np.array_equal(updated, samples[own_place])
        samples[own_place] = updated
        if planes is not None:
            planes[own_place] = _add(planes[own_place], delta @ _TO_YCC)
    if not changed:
        return None
    jpeg = None if original.jpeg is None else replace(original.jpeg, planes=planes)
    return replace(original, samples=samples, jpeg=jpeg), mask


# The arguments are sRGB pixels (h, w, 3), the change of these pixels (h, w, 3), and the stored samples. The result is
# the change of the stored samples, in the shape of the samples. Pixels and changes are in levels of 0 to 255.
_Convert = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def _choose_conversion(original: Original) -> _Convert:
    mode = original.mode
    colours = mode.removesuffix("A") if mode != "LAB" else mode
    to_own = None
    if original.icc_profile:
        try:
            to_own = own_conversion(original.icc_profile, colours)
        except BrokenProfile:
            to_own = None

    def convert(before: np.ndarray, change: np.ndarray, samples: np.ndarray) -> np.ndarray:
        if to_own is not None:
            flat = before.reshape(-1, 3)
            delta = to_own(flat + change.reshape(-1, 3)) - to_own(flat)
            delta = delta.reshape(*before.shape[:2], -1)
            if colours == "RGB" and not (np.ptp(change, axis=2).any() or np.ptp(samples[..., :3], axis=2).any()):
                # Gray pixels stay gray, although a profile rounds the three channels differently.
                delta = np.repeat(delta.mean(2, keepdims=True), 3, axis=2)
        elif colours == "CMYK":
            # Pillow's formula is R = (255 - C) (255 - K) / 255. K does not change.
            light = np.maximum(255.0 - samples[..., 3:], 1) / 255
            delta = np.concatenate([-change / light, np.zeros_like(light)], axis=2)
        else:
            delta = (change @ LUMA)[..., None] if colours == "L" else change
        if mode in ("LA", "RGBA"):
            alpha = samples[..., -1:] / find_white(samples)
            delta = np.where(alpha > 0, delta / np.maximum(alpha, _MIN_ALPHA), 0)
            delta = np.concatenate([delta, np.zeros_like(alpha)], axis=2)
        return np.asarray(delta[..., 0] if samples.ndim == 2 else delta, np.float32)

    return convert


def _add(samples: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """Returns samples plus a change. Integers are rounded and clamped to the range of their dtype, floats are not."""
    if samples.dtype.kind == "f":
        return samples + delta.astype(samples.dtype)
    limits = np.iinfo(samples.dtype)
    total = samples.astype(np.float64) + np.rint(delta)
    return np.clip(total, limits.min, limits.max).astype(samples.dtype)


def _turn_back(upright: np.ndarray, original: Original) -> np.ndarray:
    return turn_upright(upright, _UNDO[original.orientation]).copy()


def _find_place(patch: Patch, original: Original, width: int, height: int) -> tuple[slice, slice]:
    """Returns the rows and columns of a patch in the stored samples. The upright photo is `width` x `height` pixels."""
    (h, w), x, y = patch.weight.shape, patch.x, patch.y
    right, below = width - x - w, height - y - h  # the distances of the patch to the right and the lower side
    x, y = {
        1: (x, y), 2: (right, y), 3: (right, below), 4: (x, below),
        5: (y, x), 6: (y, right), 7: (below, right), 8: (below, x),
    }[original.orientation]  # fmt: skip
    if original.orientation >= 5:
        w, h = h, w
    return np.s_[y : y + h, x : x + w]
