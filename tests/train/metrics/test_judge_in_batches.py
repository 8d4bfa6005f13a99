"""Tests that the judge embeds and searches many images in one run, with the same values as one by one."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from curate.faces.align import embed_face, embed_faces
from curate.faces.models.insightface_models import load_insightface
from curate.faces.networks.devices import CPU
from curate.faces.networks.network import Network
from manifests.pictures.images import decode
from tests.doubles.faces.colour_judge import judge, photo
from tests.doubles.faces.counted_judge import GPU, CountedJudge
from tests.doubles.faces.face_models import PACK, shared
from tests.places import SHARED
from train.data.landmarks import detect_faces, detect_faces_in_all
from train.metrics.measure import build_measure
from train.metrics.readers import EMBEDDED, SEARCHED, FaceCache, MeasuredCase


def make_case(number: int) -> MeasuredCase:
    references, wrong = (photo(number, 2), photo(number, 3)), (photo(9, number),)
    return MeasuredCase(photo(number, 1), photo(number, 0), references, wrong, None, photo(number, 4))


@pytest.mark.parametrize("name", [*EMBEDDED, *SEARCHED])
def test_every_image_that_a_metric_reads_is_analysed_before_and_no_other(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.metrics.readers.find_68_points", lambda image: np.resize(image[0] * 1.0, (68, 2)))
    monkeypatch.setattr("train.metrics.measure.landmarks68.explain_missing", lambda: None)
    cases, values, analysed = [make_case(number) for number in range(4)], [], []
    for ahead in (False, True):
        counted = CountedJudge(judge())
        faces = FaceCache(counted.models)
        measure, reasons = build_measure([name], counted.models, None, faces=faces)
        assert reasons == {}
        if ahead:
            faces.analyse((case, [name]) for case in cases)
            embedded, searched = counted.take()
            assert len(embedded) <= 1 and max(searched, default=3) == 3
            analysed.append((sum(embedded), sum(searched)))
        values.append([measure(c.restored, c.target, c.references, c.wrong, lq=c.lq)[name] for c in cases])
        rest = tuple(map(sum, counted.take()))
        if ahead:
            assert rest == (0, 0)
        else:
            analysed.append(rest)
    assert values[0] == values[1] and analysed[0] == analysed[1] != (0, 0)


@shared
def test_a_real_judge_gives_the_same_faces_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = sorted((SHARED / "people_crops").glob("*/*.jpg"))[:40:8]
    crops = [cv2.resize(decode(path), (256, 256), interpolation=cv2.INTER_AREA) for path in paths]
    crops.append(np.zeros((256, 256, 3), np.uint8))
    on_cpu, on_device = (load_insightface(PACK.removeprefix("insightface:"), device=one) for one in (CPU, GPU))
    alone = [embed_face(crop, on_cpu) for crop in crops]
    # On the CPU, a network computes one image at a time, so the numbers are exactly equal.
    assert np.array_equal(embed_faces(crops, on_cpu), np.stack(alone))
    batches: dict[str, list[int]] = {"detector": [], "recognizer": []}
    run_part = Network._run_part

    def watched(self: Network, name: str, pictures: np.ndarray) -> list[np.ndarray]:
        batches[self.role].append(len(pictures))
        return run_part(self, name, pictures)

    monkeypatch.setattr(Network, "_run_part", watched)
    assert np.abs(embed_faces(crops, on_device) - np.stack(alone)).max() <= 1e-5
    found = detect_faces_in_all(crops, on_device)
    assert batches == {"recognizer": [4, 2], "detector": [3, 3, 3, 3]}  # the detector reads each image at two sizes
    expected = [detect_faces(crop, on_cpu) for crop in crops]
    assert [len(faces) for faces in found] == [len(faces) for faces in expected]
    for ours, theirs in zip(found, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert np.allclose(one.landmarks5, other.landmarks5, atol=1e-3)
            assert np.allclose(one.box, other.box, atol=1e-3)
    assert len(expected[0]) == 1 and expected[-1] == []
