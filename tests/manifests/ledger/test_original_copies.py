"""Tests that the original of a picture represents its copies, and that each copy has a reason."""

from typing import Any

import pytest

from manifests.ledger.original_copies import ENLARGED, NO_BETTER, SMALLER, Copy, choose_original
from manifests.ledger.records import Face, Photo


def copy(name: str, eyes: float = 60.0, detail: float | None = 0.1, **facts: Any) -> Copy:
    of_face = {field: facts.pop(field) for field in ("clipped", "crop_sha256") if field in facts}
    roll, yaw = facts.pop("roll", 0.0), facts.pop("yaw", 0.0)
    side = round(facts.pop("side", 600))
    face = Face(name, f"p{name}", (0.0,) * 4, (0.0,) * 10, None, 0.9, eyes, yaw, 0.0, roll, 0.5, 1.0, 0.5, 3.0, "")
    photo = Photo(f"p{name}", side, side, "0" * 16, **({"format": "JPEG", "jpeg_quality": 90} | facts))
    return Copy(Face(**{**vars(face), **of_face, "detail": detail}), photo)


@pytest.mark.parametrize(
    ("worse", "reason"),
    [
        (copy("b", 30, 0.085), SMALLER),
        (copy("b", 180, 0.101, side=1800), ENLARGED),
        (copy("b", gray=True), "has no colours"),
        (copy("b", format="GIF palette", jpeg_quality=None, detail=0.12), "was converted to fewer colours"),
        (copy("b", 61, format="JPEG CMYK"), "was converted to fewer colours"),
        (copy("b", 61, jpeg_quality=30, detail=0.13), "is compressed strongly"),
        (copy("b", 61, clipped=0.3), "has lost its brightest parts"),
        (copy("b", 61, 0.08), "has less detail"),
        (copy("b", 61, border=0.3, side=700), "has a border"),
        (copy("b", 61, side=460), "shows less of the picture"),
        (copy("b", 61, format="WEBP", jpeg_quality=None), "was converted to another format"),
        (copy("b", 59), NO_BETTER),
        (copy("b", 30, None), SMALLER),
    ],
)
def test_a_worse_copy_has_a_reason_in_any_order(worse, reason):
    assert choose_original([copy("a"), worse]) == (0, ["", reason])
    assert choose_original([worse, copy("a")]) == (1, [reason, ""])


def test_most_copies_tell_what_is_turned_mirrored_or_without_a_camera():
    copies = [copy("a", camera=True), copy("b", 61), copy("c", 62, roll=5.0), copy("d", 63, yaw=30.0)]
    assert choose_original(copies) == (
        0,
        ["", "does not name the camera", "is turned or mirrored", "is turned or mirrored"],
    )


def test_a_lossless_file_is_the_original_unless_its_pixels_come_from_a_lossy_file():
    lossless = {"format": "PNG", "jpeg_quality": None}
    jpeg = copy("a", crop_sha256="1")
    assert choose_original([jpeg, copy("b", crop_sha256="2", **lossless)])[0] == 1
    assert choose_original([jpeg, copy("b", crop_sha256="1", **lossless)]) == (
        0,
        ["", "was converted to another format"],
    )


def test_one_enlarged_or_reduced_copy_does_not_beat_many_of_the_size_of_the_original():
    copies = [copy(name, 60 + i) for i, name in enumerate("abcd")]
    found, reasons = choose_original([*copies, copy("e", 180, 0.103, side=1800), copy("f", 40, 0.09)])
    assert copies[found].face.face_id in "abcd" and reasons[-2:] == [ENLARGED, SMALLER]
