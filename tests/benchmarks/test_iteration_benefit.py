"""Tests the result of the benchmark that compares rounds of cleaning."""

import sys

import pytest

from tests.places import REPOSITORY

sys.path.append(str(REPOSITORY / "benchmarks"))
from iteration_benefit import REFERENCES, ROUNDS, summarise

LABELS = [f"round-{n}" for n in range(ROUNDS + 1)]


def rows() -> list[dict]:
    """Returns rows of six people with three photos each.

    The figures rise by .01 from run to run. The figures of a run with references are .11 above its figures without
    references.
    """
    found = []
    for place, key in enumerate(["lq", *(f"{label}/{of}" for label in LABELS for of in (0, REFERENCES))]):
        for face in range(18):
            figure = 0.3 + 0.01 * (place // 2) + 0.1 * key.endswith(f"/{REFERENCES}")
            figures = dict.fromkeys(("psnr", "ssim", "id_target", "face_restored", "sharpness"), figure)
            about = {"face_id": str(face), "identity_id": str(face // 3), "key": key, "system": key, "reason": None}
            found.append(about | figures)
    return found


def test_the_summary_has_every_system_and_each_compared_with_what_it_should_be_better_than() -> None:
    found = summarise(rows())
    apart = found.pop("differences")
    assert list(found) == ["lq", *(f"{label}/{of}" for label in LABELS for of in (0, REFERENCES))]
    assert set(found["lq"]) == {"psnr", "ssim", "id_target", "face_restored", "sharpness"}
    for label in LABELS:  # the references are better than no references in every run
        assert apart[f"{label}: right - none"]["id_target"]["mean"] == pytest.approx(0.11)
        assert apart[f"{label}: right - none"]["id_target"]["excludes_zero"]
    assert apart["round-2 - round-0"]["sharpness"]["mean"] == pytest.approx(0.02)
    assert apart["round-1 - round-0, no reference"]["psnr"]["mean"] == pytest.approx(0.01)
    assert len(apart) == len(LABELS) + 2 * ROUNDS
