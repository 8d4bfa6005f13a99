"""Makes pictures without a face and with a known sharpness."""

from __future__ import annotations

import numpy as np


def make_texture(seed: int = 0, size: int = 128) -> np.ndarray:
    """Returns a gray picture with the spectrum of natural pictures: the amplitude falls with the frequency."""
    rng = np.random.default_rng(seed)
    radius = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None]) * size
    spectrum = np.exp(2j * np.pi * rng.random((size, size))) / np.maximum(radius, 1)
    plane = np.fft.ifft2(spectrum).real
    return np.repeat(np.clip(128 + 40 * plane / plane.std(), 0, 255).astype(np.uint8)[..., None], 3, 2)
