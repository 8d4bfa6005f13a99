"""Tests what `restore` decides for each face: which references it gets, and whether it is restored or kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import train.restore.decisions.coarse_form
import train.restore.decisions.harm
import train.restore.restorers.face_restorer
import train.restore.restorers.load_restorer
from curate.faces.interface import FaceModels
from manifests.errors import BadInput
from manifests.pictures.images import decode
from tests.doubles import curation as doubles
from tests.doubles.models.restorers import NO_LIMITS, SIZE, Marking, find_green
from tests.places import Run
from train.models.io import Restoration
from train.restore.decisions.harm import ALREADY_SHARP, LESS_ALIKE, RESTORED, HarmLimits
from train.restore.decisions.outcomes import FaceOutcome
from train.restore.outputs.log import LOG
from train.restore.restore_photos import restore

Save = Callable[..., Path]


def names(face: FaceOutcome) -> list[str]:
    return [Path(use.file).name for use in face.references]


def limit(monkeypatch: pytest.MonkeyPatch, limits: HarmLimits) -> None:
    monkeypatch.setattr(train.restore.decisions.harm, "LIMITS", limits)


def test_each_face_gets_its_own_references_and_a_stranger_is_restored_without(
    marking: Marking, save: Save, tmp_path: Path
) -> None:
    photo, references = save("three.png", [0, 5, 9]), [save("a.png", [5], 1), save("b.png", [5], 2)]
    (row,) = restore([photo], references, tmp_path, tmp_path / "o")
    by_place = sorted(row.faces, key=lambda face: face.box[0])
    assert [names(face) for face in by_place] == [[], ["a.png", "b.png"], []]
    assert all(face.restored for face in by_place) and sorted(marking.seen) == [0, 0, 2]
    assert "the references do not match the face" in by_place[0].sentence and by_place[0].similarity is None
    assert by_place[1].sentence.startswith("The face at 200,30,320,150 was restored with 2 references (a.png ")
    (logged,) = [json.loads(line) for line in (tmp_path / "o" / LOG).read_text().splitlines()]
    assert sorted(len(face["references"]) for face in logged["faces"]) == [0, 0, 2]
    assert all(face["sentence"] and face["decision"] == RESTORED for face in logged["faces"])
    # the references show two people, who are both in the photo
    (row,) = restore([photo], [*references, save("c.png", [9], 1), save("d.png", [9], 2)], tmp_path, tmp_path / "p")
    by_place = sorted(row.faces, key=lambda face: face.box[0])
    assert [names(face) for face in by_place] == [[], ["a.png", "b.png"], ["c.png", "d.png"]]


def test_a_degraded_face_gets_the_references_and_a_sharp_stranger_only_when_insisted_on(
    marking: Marking, save: Save, tmp_path: Path
) -> None:
    one, reference = save("one.png", [0]), save("r.png", [9], 1)
    soft = doubles.save(tmp_path / "soft.png", cv2.GaussianBlur(doubles.photo([0], 0), (0, 0), 2))
    rows = restore([soft, one], [reference], tmp_path, tmp_path / "o")
    # Both faces are first restored without references, in one batch. This result decides whether the soft face gets
    # references.
    assert [row.status for row in rows] == ["ok", "ok"] and (marking.seen, marking.batches) == ([0, 0, 1], [2, 1])
    assert "only a little like the references" in rows[0].faces[0].sentence
    assert "give --trust-references" in rows[1].faces[0].sentence
    for number, options in enumerate(({"trust_references": True}, {"box": (40, 30, 160, 150)})):
        (row,) = restore([one], [reference], tmp_path, tmp_path / f"p{number}", **options)  # type: ignore[arg-type]
        assert names(row.faces[0]) == ["r.png"] and row.reason is None


def test_a_reference_of_somebody_else_is_left_out_and_said(marking: Marking, save: Save, tmp_path: Path) -> None:
    one, said = save("one.png", [5]), list[str]()
    references = [save("a.png", [5], 1), save("odd.png", [9], 1), save("group.png", [0, 5], 2)]
    (row,) = restore([one], references, tmp_path, tmp_path / "o", say=said.append)
    assert names(row.faces[0]) == ["a.png", "group.png"] and len(said) == 2
    assert "odd.png does not show the main person of the references" in said[0]
    assert "group.png shows 2 faces. The face at 200,30,320,150 is used" in said[1]
    assert row.faces[0].references[1].box == (200, 30, 320, 150)
    (row,) = restore([one], references, tmp_path, tmp_path / "p", trust_references=True)
    assert sorted(names(row.faces[0])) == ["a.png", "group.png", "odd.png"]


def test_the_photo_itself_and_a_near_duplicate_are_no_references(marking: Marking, save: Save, tmp_path: Path) -> None:
    one, mine = save("one.png", [5]), save("mine.png", [5], 1)
    again = tmp_path / "again.png"
    again.write_bytes(one.read_bytes())
    smaller = doubles.save(tmp_path / "smaller.jpg", cv2.resize(decode(one), None, fx=0.75, fy=0.75))
    (row,) = restore([one], [again, smaller, mine], tmp_path, tmp_path / "o")
    assert names(row.faces[0]) == ["mine.png"]
    assert "again.png was left out, because it is the same file" in str(row.reason)
    assert "smaller.jpg was left out, because it is a near-duplicate" in str(row.reason)


def test_unusable_references_are_a_sentence_each_and_an_error_if_there_are_no_others(
    marking: Marking, save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, said = save("refs/one.png", [5]), list[str]()
    save("refs/r1.png", [5], 1)
    save("refs/deep/r2.png", [5], 2)
    empty, letter = save("refs/empty.png", []), tmp_path / "refs" / "letter.txt"
    letter.write_text("hello")
    restore([one], [tmp_path / "refs"], tmp_path, tmp_path / "o", say=said.append)
    assert marking.seen == [2] and len(said) == 2 and all("left out of the references" in text for text in said)
    restore([one], [letter, tmp_path / "refs/r1.png", empty], tmp_path, tmp_path / "p", say=said.append)
    assert marking.seen == [2, 1] and len(said) == 4
    save("useless/empty.png", [])
    (tmp_path / "bare").mkdir()
    for unusable, words in (
        ([tmp_path / "useless"], "No face was found"),
        ([tmp_path / "bare"], "contains no file"),
        ([letter, empty], "cannot be read"),
        ([tmp_path / "missing.png"], "No reference can be used"),
    ):
        with pytest.raises(BadInput, match=words):
            restore([one], unusable, tmp_path, tmp_path / "q")
    # A face with a score below the threshold of the detector does not count.
    strict: Callable[..., FaceModels] = lambda spec, device: replace(doubles.models(spec), min_score=0.95)  # noqa: E731
    monkeypatch.setattr(train.restore.restorers.face_restorer, "load_faces", strict)
    with pytest.raises(BadInput, match="No face was found in the reference"):
        restore([one], [tmp_path / "refs/r1.png"], tmp_path, tmp_path / "q")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_face_that_would_get_worse_is_kept_and_the_photo_copied_byte_for_byte(
    marking: Marking, save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    one, references = save(f"one.{suffix}", [5]), [save("a.png", [5], 1)]
    limit(monkeypatch, replace(NO_LIMITS, max_identity_loss=0.0))
    (row,) = restore([one], references, tmp_path, tmp_path / "o")
    (face,) = row.faces
    assert (row.status, face.restored, face.decision) == ("kept", False, LESS_ALIKE)
    assert "less like the references" in face.sentence and "--always" in face.sentence
    assert Path(str(row.output)).read_bytes() == one.read_bytes()
    (row,) = restore([one], references, tmp_path, tmp_path / "p", always=True)
    assert row.status == "ok" and find_green(decode(Path(str(row.output)))).any()
    assert ", although the restored face is less like the references" in row.faces[0].sentence


def test_a_sharp_face_is_kept_without_a_restoration_and_its_neighbour_restored(
    marking: Marking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = doubles.photo([0, 5], 0)
    image[30:150, 40:160] = cv2.GaussianBlur(image[30:150, 40:160], (0, 0), 6)
    limit(monkeypatch, replace(NO_LIMITS, max_fineness=0.2))
    (row,) = restore([doubles.save(tmp_path / "two.png", image)], [], tmp_path, tmp_path / "o")
    by_place = sorted(row.faces, key=lambda face: face.box[0])
    assert [face.decision for face in by_place] == [RESTORED, ALREADY_SHARP] and marking.seen == [0]
    assert f"already sharper than a restorer of {SIZE} x {SIZE} pixels can write" in by_place[1].sentence
    result = decode(tmp_path / "o" / "two.png")
    assert find_green(result)[:, :180].any() and (result[:, 180:] == image[:, 180:]).all()


def test_the_strength_mixes_and_zero_copies_the_photo(marking: Marking, save: Save, tmp_path: Path) -> None:
    one = save("one.png", [0])
    results = []
    for strength in (1.0, 0.5):
        (row,) = restore([one], [], tmp_path, tmp_path / f"{strength}", strength=strength)
        results.append(decode(Path(str(row.output))).astype(int) - decode(one))
    middle = np.s_[85:100, 95:105]
    assert np.abs(results[0][middle] - 2 * results[1][middle]).max() <= 2 and np.abs(results[0]).max() > 20
    (row,) = restore([one], [], tmp_path, tmp_path / "0", strength=0)
    assert row.status == "kept" and Path(str(row.output)).read_bytes() == one.read_bytes() and len(marking.seen) == 2
    with pytest.raises(BadInput, match="number from 0 to 1"):
        restore([one], [], tmp_path, tmp_path / "2", strength=1.5)


def test_the_command_prints_a_sentence_for_each_face(
    marking: Marking, save: Save, tmp_path: Path, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.models.checkpoint_files.find_newest_checkpoint", lambda run: run)
    photo, words = save("two.png", [0, 5]), ["--run", tmp_path, "--out", tmp_path / "o"]
    done = command("restore", photo, *words)
    assert done.returncode == 0 and done.stdout.count("was restored without references.") == 2
    assert "The command restored 2 faces in 1 of 1 photo" in done.stdout
    limit(monkeypatch, replace(NO_LIMITS, min_agreement=99.0))
    done = command("restore", photo, "--run", tmp_path, "--out", tmp_path / "p")
    assert done.returncode == 0 and done.stdout.count("was kept as it is, because") == 2
    assert "restored 0 faces in 0 of 1 photo" in done.stdout and "2 faces were kept unchanged." in done.stdout


def test_a_shift_of_colour_by_the_restorer_is_undone_in_a_readable_face(
    marking: Marking, save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, readable = save("one.png", [5]), train.restore.decisions.coarse_form.READABLE_SHARE
    assert readable > 1, "the fixture lets the marks stay"
    # This double only makes the middle of the face a little darker, so the recognizer still finds both faces similar.
    spot = 30 * np.outer(*[np.hanning(SIZE)] * 2).astype(np.float32)[..., None]
    darker = torch.from_numpy(spot).permute(2, 0, 1) / 255
    monkeypatch.setattr(marking, "forward", lambda lq, *_: Restoration(lq - darker, lq, None))

    def restore_and_compare(name: str) -> int:
        (row,) = restore([one], [], tmp_path, tmp_path / name)
        return int(np.abs(decode(Path(str(row.output))).astype(int) - decode(one)).max())

    assert restore_and_compare("unreadable") >= 8
    monkeypatch.setattr(train.restore.decisions.coarse_form, "READABLE_SHARE", 0.3)
    assert restore_and_compare("readable") <= 2
