"""Which faces are good enough, and if not, why: a predicate over recorded columns. Loosening it needs no detection."""

from __future__ import annotations

from curate.config import ScreenRules
from manifests.records import Face

REASONS = ("too_small", "low_score", "cut_by_border", "turned_away", "too_blurred", "too_dark", "too_bright")


def screen(face: Face, rules: ScreenRules, photo_size: tuple[int, int]) -> str | None:
    """The first rule a face breaks, or None. `photo_size` is (width, height) in pixels."""
    if face.inter_ocular_px < rules.min_inter_ocular_px:
        return "too_small"
    if rules.min_det_score is not None and face.det_score < rules.min_det_score:
        return "low_score"
    x0, y0, x1, y1 = face.box
    outside = max(-x0 / (x1 - x0 + 1e-6), (x1 - photo_size[0]) / (x1 - x0 + 1e-6),
                  -y0 / (y1 - y0 + 1e-6), (y1 - photo_size[1]) / (y1 - y0 + 1e-6))  # fmt: skip
    if outside > rules.max_outside:
        return "cut_by_border"
    if abs(face.yaw) > rules.max_abs_yaw or abs(face.pitch) > rules.max_abs_pitch:
        return "turned_away"
    if face.sharpness < rules.min_sharpness:
        return "too_blurred"
    if face.exposure < rules.min_exposure:
        return "too_dark"
    if face.exposure > rules.max_exposure:
        return "too_bright"
    return None
