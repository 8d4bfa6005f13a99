"""Tests restoring photos: which faces are restored, the paths of the results, and the messages about other files. The
people of the doubles are coloured squares.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import train.restore.restorers.face_restorer
from curate.faces.align import FFHQ_512, FFHQ_SIZE, scale_template
from curate.faces.interface import Detection, FaceModels
from curate.photos.read_files import read_photo_row
from manifests.errors import BadInput
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import KeptOutMark
from manifests.pictures import untrusted_images
from manifests.pictures.images import Picture, decode, decode_picture
from manifests.privacy.optout import plan_optout
from manifests.privacy.purge import purge
from manifests.report.sections.run_section import read_run
from manifests.runtime.uris import fold_name
from manifests.runtime.workers import open_pool
from tests.doubles import curation as doubles
from tests.doubles.commands.forked_commands import start_python
from tests.doubles.commands.misbehaviour import ODD, reads_oddly
from tests.doubles.models.restorers import SIZE, Marking, find_green
from train.data.tensors import to_image, to_tensor
from train.models.io import Restoration
from train.models.restorer import Restorer
from train.restore.decisions.outcomes import PhotoOutcome
from train.restore.output_paths import plan_outputs
from train.restore.outputs.contact_sheet import ContactSheet, render_sheet
from train.restore.outputs.log import LOG
from train.restore.references.reference_photos import References
from train.restore.restore_photos import restore
from train.restore.restorers.load_restorer import load_restorer, run_model


def test_without_references_every_face_is_restored_at_the_photos_own_size(
    marking: Marking, save: Callable[..., Path], tmp_path: Path
) -> None:
    photo = save("two.png", [0, 5])
    (row,) = restore([photo], [], tmp_path, tmp_path / "out")
    assert row.status == "ok" and [face.restored for face in row.faces] == [True, True] and marking.seen == [0, 0]
    result, before = decode(tmp_path / "out" / "two.png"), decode(photo)
    assert result.shape == before.shape
    assert find_green(result)[:, :180].any() and find_green(result)[:, 220:].any()
    assert (result[:, :1] == before[:, :1]).all()


def test_an_odd_photo_is_a_row_and_the_others_are_restored(
    marking: Marking, save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def detect(image: np.ndarray) -> list[Detection]:
        if not image.any():
            raise RuntimeError("the network\nfell over")
        first, *others = doubles.detect(image)
        return [replace(first, landmarks5=np.full((5, 2), 7, np.float32)), *others]

    broken: Callable[..., FaceModels] = lambda spec, device: replace(doubles.models(spec), detect=detect)  # noqa: E731
    monkeypatch.setattr(train.restore.restorers.face_restorer, "load_faces", broken)
    photos = [save("a.png", []), save("b.png", [0, 5]), save("c.png", [0])]
    rows = restore(photos, [], tmp_path, tmp_path / "o")
    assert [row.status for row in rows] == ["failed", "ok", "dropped"] and len(rows[1].faces) == 1
    assert rows[0].reason == "The photo could not be restored: the network fell over."
    assert len((tmp_path / "o" / LOG).read_text().splitlines()) == 3


def test_an_unreadable_folder_is_a_row_and_dot_files_are_skipped(
    marking: Marking, save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("in/a.png", "in/.b.png", "in/locked/c.png"):
        save(name, [0])
    scandir = os.scandir

    def locked(path: str) -> object:  # acts like an unreadable folder; root could read a real one
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    rows = restore([tmp_path / "in"], [], tmp_path, tmp_path / "o")
    assert [(Path(row.photo).name, row.status) for row in rows] == [("a.png", "ok"), ("locked", "failed")]
    assert rows[1].reason == "The folder cannot be read: Permission denied."
    (row,) = restore([tmp_path / "in" / "locked"], [], tmp_path, tmp_path / "p")
    assert row.status == "failed" and (tmp_path / "p" / LOG).exists()


def log_of(out: Path) -> dict[str, str]:
    lines = [json.loads(line) for line in (out / LOG).read_text().splitlines()]
    return {Path(line["photo"]).name: line["status"] for line in lines}


def test_results_of_other_photos_and_settings_are_never_overwritten(
    marking: Marking, save: Callable[..., Path], tmp_path: Path
) -> None:
    one, two, out = save("a/one.png", [0]), save("a/two.png", [1]), tmp_path / "o"
    restore([one], [], tmp_path, out)
    restore([two], [], tmp_path, out)
    restore([save("a/nobody.png", [])], [], tmp_path, out)
    assert log_of(out) == {"one.png": "ok", "two.png": "ok", "nobody.png": "dropped"}
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for inputs, references, said in (
        ([save("b/one.png", [2])], [], "restored from .*a/one.png"),
        ([one], [save("r.png", [0], 1)], "different references"),
        ([two, one], [tmp_path / "r.png"], "different references"),
    ):
        with pytest.raises(BadInput, match=said):
            restore(inputs, references, tmp_path, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (row,) = restore([one], [], tmp_path, out)  # the same command runs again
    assert row.status == "ok" and log_of(out) == {"one.png": "ok", "two.png": "ok", "nobody.png": "dropped"}
    doubles.save(out / "mine.png", doubles.photo([3], 0))
    with pytest.raises(BadInput, match="did not write this file"):
        restore([save("a/mine.png", [3])], [], tmp_path, out)
    (out / LOG).write_text("my notes")
    with pytest.raises(BadInput, match="is not a log of restored photos"):
        restore([one], [], tmp_path, out)


def test_a_stopped_call_has_a_row_for_every_photo_and_is_repeated(
    marking: Marking, save: Callable[..., Path], tmp_path: Path
) -> None:
    for name in ("in/a.png", "in/b.png", "in/c.png"):
        save(name, [0])

    def stop(_: str, done: int, __: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore([tmp_path / "in"], [], tmp_path, tmp_path / "o", progress=stop)
    # The third photo can be finished, because a thread may have worked on it when the command was stopped.
    statuses = log_of(tmp_path / "o")
    assert [statuses[name] for name in ("a.png", "b.png")] == ["ok", "ok"] and statuses["c.png"] in ("ok", "failed")
    assert (tmp_path / "o" / "c.png").exists() == (statuses["c.png"] == "ok")
    rows = restore([tmp_path / "in"], [], tmp_path, tmp_path / "o")
    assert [row.status for row in rows] == ["ok"] * 3 and list(log_of(tmp_path / "o").values()) == ["ok"] * 3


def test_a_photo_offered_twice_is_one_and_two_of_a_name_are_both_said(
    marking: Marking, save: Callable[..., Path], tmp_path: Path
) -> None:
    one = save("in/deep/p.png", [0])
    (row,) = restore([one, tmp_path / "in", one], [], tmp_path, tmp_path / "o")
    assert row.status == "ok" and (tmp_path / "o" / "deep" / "p.png").is_file()
    with pytest.raises(BadInput, match=r"deep/p\.png and .*other/p\.png would become the same file"):
        restore([one, save("in/other/p.png", [1])], [], tmp_path, tmp_path / "o2")
    for out in (one, one / "below"):
        with pytest.raises(BadInput, match="is a file: give a folder"):
            restore([tmp_path / "in"], [], tmp_path, out)


def test_the_formats_that_are_known_are_all_said(marking: Marking, save: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("hello")
    (row,) = restore([tmp_path / "letter.txt"], [], tmp_path, tmp_path / "o")
    assert "AVIF" in str(row.reason)


_DOUBLES = """
import sys
for stream in (sys.stdout, sys.stderr):
    stream.reconfigure(encoding="utf-8", errors="strict")  # as PYTHONIOENCODING=utf-8:strict does
import train.models.checkpoint_files, train.restore.restorers.face_restorer, likeness
from tests.doubles import curation as curate_doubles
from tests.doubles.models.restorers import Marking
from train.models.restorer import Restorer
train.restore.restorers.face_restorer.load_faces = curate_doubles.models
train.models.checkpoint_files.find_newest_checkpoint = lambda run: run
Restorer.from_pretrained = classmethod(lambda cls, folder, base_model=None: Marking('embedding'))
sys.argv[0] = "likeness"
likeness.main()
"""


@pytest.mark.parametrize("dry", [True, False])
def test_a_name_of_any_bytes_is_printed(tmp_path: Path, dry: bool) -> None:
    folder = tmp_path / "in"
    doubles.save(folder / "nobody.png", doubles.photo([], 0)).rename(folder / os.fsdecode(b"caf\xe9.png"))
    words = ["restore", str(folder), "--run", str(tmp_path), "--out", str(tmp_path / "o")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = start_python(["-c", _DOUBLES, *words, *(["--dry-run"] if dry else [])], environment)
    out, err = process.communicate()
    assert process.returncode == (0 if dry else 1) and "Traceback" not in err, err
    assert "caf\\xe9.png" in out


def test_folders_keep_their_structure_and_every_file_gets_a_row(
    marking: Marking, save: Callable[..., Path], tmp_path: Path
) -> None:
    save("in/a/x.png", [0])
    save("in/b/x.png", [1])
    doubles.save(tmp_path / "in" / "b" / "x.jpg", doubles.photo([2], 0))
    save("in/nobody.png", [])
    (tmp_path / "in" / "letter.txt").write_text("hello")
    (tmp_path / "in" / "loop").symlink_to("loop")
    rows = restore([tmp_path / "in"], [], tmp_path, tmp_path / "out")
    assert {Path(row.photo).name: row.status for row in rows if row.status != "ok"} == {
        "nobody.png": "dropped",
        "letter.txt": "failed",
        "loop": "failed",
    }
    save("case/x.bmp", [0])  # on some systems, x.png and X.png would be the same file
    save("case/X.png", [1])
    restore([tmp_path / "case"], [], tmp_path, tmp_path / "apart")
    assert {path.name for path in (tmp_path / "apart").glob("*.png")} == {"X.png", "x.bmp.png"}
    outputs, _ = plan_outputs([save("three/B.bmp", [0]), save("three/b.bmp", [1]), save("three/B.jpg", [2])], tmp_path)
    assert len({fold_name(output.png) for output in outputs}) == 3
    outputs, _ = plan_outputs([save("camera/IMG.PNG", [0])], tmp_path)
    assert outputs[0].png == tmp_path / "IMG.png"  # no other photo has this name, so the name stays
    made = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("x.*")}
    assert made == {"a/x.png", "b/x.png", "b/x.jpg"}
    logged = [json.loads(line) for line in (tmp_path / "out" / LOG).read_text().splitlines()]
    assert len(logged) == len(rows) == 6 and all(row["reason"] for row in logged if row["status"] != "ok")


def test_a_box_points_at_a_face_that_no_detector_finds(
    marking: Marking, save: Callable[..., Path], tmp_path: Path
) -> None:
    dark = save("dark.png", [])
    (row,) = restore([dark], [save("r.png", [5], 1)], tmp_path, tmp_path / "o", box=(10, 10, 90, 100))
    assert row.status == "ok"
    # the mark is gray, because the photo is gray
    assert (decode(tmp_path / "o" / "dark.png")[50:65, 40:60] == round(0.587 * 255)).all()


def test_a_box_outside_the_photo_is_a_failed_row(marking: Marking, save: Callable[..., Path], tmp_path: Path) -> None:
    (row,) = restore([save("dark.png", [])], [], tmp_path, tmp_path / "o", box=(5000, 10, 5090, 100))
    assert row.status == "failed" and "outside the photo" in str(row.reason)
    assert not (tmp_path / "o" / "dark.png").exists()


def test_aligned_crops_come_back_at_the_restorers_size(
    marking: Marking, save: Callable[..., Path], tmp_path: Path
) -> None:
    for side in (SIZE // 2, SIZE, 5 * SIZE):
        doubles.save(tmp_path / "crops" / f"{side}.png", doubles.face(3, 1, side))
    doubles.save(tmp_path / "crops" / "wide.png", np.zeros((20, 40, 3), np.uint8))
    rows = restore([tmp_path / "crops"], [], tmp_path, tmp_path / "o", aligned=True)
    assert [row.status for row in rows].count("ok") == 3
    assert "An aligned crop is square" in str(next(row.reason for row in rows if row.status == "failed"))
    assert {decode(path).shape for path in (tmp_path / "o").glob("*.png")} == {(SIZE, SIZE, 3)}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"box": (1.0, 2.0, 0.0, 5.0)}, "x0 < x1"),
        ({"box": (0.0, 0.0, float("inf"), 5.0)}, "finite"),
        ({"box": (0.0, 0.0, 9.0, 9.0), "aligned": True}, "leave out --aligned"),
        ({"faces": "other"}, "a different recognizer"),
    ],
)
def test_bad_options_are_one_sentence(
    marking: Marking, save: Callable[..., Path], tmp_path: Path, change: dict[str, object], sentence: str
) -> None:
    with pytest.raises(BadInput, match=sentence):
        restore([save("one.png", [0])], [], tmp_path, tmp_path / "o", **change)  # type: ignore[arg-type]
    assert not (tmp_path / "o").exists()


def test_a_reference_without_a_face_and_an_input_that_would_be_overwritten(
    marking: Marking, save: Callable[..., Path], tmp_path: Path
) -> None:
    one = save("one.png", [0])
    with pytest.raises(BadInput, match=r"No face was found in the reference"):
        restore([one], [save("empty.png", [])], tmp_path, tmp_path / "o")
    before = one.read_bytes()
    with pytest.raises(BadInput, match="would overwrite"):
        restore([one], [], tmp_path, tmp_path)
    assert one.read_bytes() == before


def test_out_may_be_inside_or_above_the_folder_of_the_photos_but_not_the_folder_itself(
    marking: Marking, save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("in/one.png", [0])
    save("in/deep/two.bmp", [1])
    folder = tmp_path / "in"
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    for out in (folder, Path("in"), tmp_path / "link"):
        with pytest.raises(BadInput, match="would overwrite"):
            restore([folder], [], tmp_path, out)
    assert [path.name for path in folder.iterdir() if path.is_file()] == ["one.png"]
    # the second call does not restore the results of the first call
    for out in (folder / "out", Path("in/out")):
        rows = restore([folder], [], tmp_path, out)
        assert [Path(row.photo).name for row in rows] == ["two.bmp", "one.png"]
    photo = save("other/in/three.png", [2])
    (row,) = restore([photo.parent], [], tmp_path, tmp_path / "other")
    assert row.status == "ok" and (tmp_path / "other" / "three.png").is_file()


@pytest.fixture
def warping(marking: Marking, monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray, np.ndarray]]:
    """Makes the restorer use the part `warped`. The double of the warp paints the reference blue.

    Returns a list, to which each warp adds the landmarks of the reference and of the input.
    """
    marking.config = replace(marking.config, parts=("maps", "warped"))
    warped: list[tuple[np.ndarray, np.ndarray]] = []

    def warp_to(image: np.ndarray, landmarks5: np.ndarray, to: np.ndarray) -> np.ndarray:
        assert image.dtype == np.uint8 and image.shape == (SIZE, SIZE, 3)
        warped.append((landmarks5, to))
        return np.full_like(image, (0, 0, 255))

    module = ModuleType("train.data.warp")
    module.warp_to = warp_to  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "train.data.warp", module)
    return warped


def test_references_are_warped_to_each_face_where_the_recipe_says_so(
    marking: Marking, warping: list[tuple[np.ndarray, np.ndarray]], save: Callable[..., Path], tmp_path: Path
) -> None:
    one, shown = save("one.png", [5]), [save("r.png", [5], 1), save("s.png", [5], 2)]
    (row,) = restore([one], shown, tmp_path, tmp_path / "o")
    assert row.status == "ok" and row.reason is None and len(warping) == 2
    blue = torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1).expand(3, SIZE, SIZE)
    assert all(torch.equal(crop, blue) for crop in marking.references[0])
    # The landmarks must be in pixels of the aligned crops, so they are near the template.
    template = scale_template(FFHQ_512, FFHQ_SIZE, SIZE)
    assert all(np.abs(points - template).max() < SIZE / 8 for pair in warping for points in pair)
    marking.config = replace(marking.config, parts=("maps",))
    restore([one], shown, tmp_path, tmp_path / "p")
    assert len(warping) == 2 and not torch.equal(marking.references[0, 0], blue)


def test_a_face_without_landmarks_gets_its_references_as_aligned_and_that_is_said(
    marking: Marking, warping: list[tuple[np.ndarray, np.ndarray]], save: Callable[..., Path], tmp_path: Path
) -> None:
    dark, reference = save("dark.png", []), save("r.png", [5], 1)
    (row,) = restore([dark], [reference], tmp_path, tmp_path / "o", box=(10, 10, 90, 100))
    assert row.status == "ok" and "were not warped" in str(row.reason) and not warping
    (row,) = restore([dark], [], tmp_path, tmp_path / "p", box=(10, 10, 90, 100))
    assert row.reason is None
    crop = doubles.save(tmp_path / "crop.png", np.zeros((SIZE, SIZE, 3), np.uint8))
    (row,) = restore([crop], [reference], tmp_path, tmp_path / "q", aligned=True)
    assert row.status == "ok" and "were not warped" in str(row.reason) and not warping


def test_an_aligned_crop_has_its_landmarks_found(
    marking: Marking,
    warping: list[tuple[np.ndarray, np.ndarray]],
    save: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reference, crop = save("r.png", [5], 1), doubles.save(tmp_path / "crop.png", np.zeros((SIZE, SIZE, 3), np.uint8))
    found = scale_template(FFHQ_512, FFHQ_SIZE, SIZE).astype(np.float32) + 1

    def detect(image: np.ndarray) -> list[Detection]:
        real = doubles.detect(image)
        return real or [replace(doubles.detect(decode(reference))[0], landmarks5=found)]

    finding: Callable[..., FaceModels] = lambda spec, device: replace(doubles.models(spec), detect=detect)  # noqa: E731
    monkeypatch.setattr(train.restore.restorers.face_restorer, "load_faces", finding)
    (row,) = restore([crop], [reference], tmp_path, tmp_path / "o", aligned=True)
    assert row.status == "ok" and row.reason is None and (warping[0][1] == found).all()


def test_a_restorer_that_looks_at_no_reference_says_what_they_are_for(
    marking: Marking, save: Callable[..., Path], tmp_path: Path
) -> None:
    marking.config, notices = replace(marking.config, parts=("vre",)), list[str]()
    restore([save("one.png", [5])], [save("r.png", [5], 1)], tmp_path, tmp_path / "o", say=notices.append)
    assert len(notices) == 1 and "The references are used only to check" in notices[0]
    restore([save("two.png", [5])], [], tmp_path, tmp_path / "o", say=notices.append)
    assert len(notices) == 1


def test_the_base_is_told_to_whatever_opens_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def note(*words: object) -> SimpleNamespace:
        asked.append(words)
        return SimpleNamespace(config=SimpleNamespace(parts=(), denoise=False))

    monkeypatch.setattr(
        Restorer,
        "from_pretrained",
        classmethod(lambda cls, folder, base_model=None: note("run", str(folder), base_model)),
    )
    module = ModuleType("train.models.released.osdface")
    module.load_osdface = lambda folder, base_model: note("osdface", str(folder), base_model)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "train.models.released.osdface", module)
    other = ModuleType("train.models.released.instantrestore")
    other.load_instantrestore = lambda folder, base_model, seed: note("instant", str(folder), base_model, seed)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "train.models.released.instantrestore", other)
    load_restorer(tmp_path)
    load_restorer(tmp_path, "sd21")
    load_restorer(Path(f"osdface:{tmp_path}"), "sd21")
    here = str(tmp_path)
    assert asked == [("run", here, None), ("run", here, "sd21"), ("osdface", here, "sd21")]
    for name in ("osdface", "instantrestore"):
        with pytest.raises(BadInput, match="give its folder with --base-model"):
            load_restorer(f"{name}:{tmp_path}")
    load_restorer(f"instantrestore:{tmp_path}", "turbo")
    load_restorer(Path(f"instantrestore:{tmp_path}"), "turbo", seed=7)
    assert asked[3:] == [("instant", here, "turbo", 0), ("instant", here, "turbo", 7)]
    for name in (here, f"osdface:{here}"):
        with pytest.raises(BadInput, match="--seed 7 has no effect, because this restorer draws no noise"):
            load_restorer(name, "sd21", seed=7)


def test_released_weights_name_no_recognizer_and_any_finds_the_faces(
    marking: Marking, save: Callable[..., Path], tmp_path: Path
) -> None:
    marking.facts = {}
    (row,) = restore([save("one.png", [5])], [], tmp_path, tmp_path / "o")
    assert row.status == "ok"


def test_a_restorer_is_called_on_its_own_device_and_answers_on_the_cpu() -> None:
    """The device meta stands for a GPU: its tensors cannot be mixed with tensors on the CPU."""

    class Elsewhere(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1, device="meta"))

        def forward(self, *told: torch.Tensor) -> Restoration:
            assert {part.device.type for part in told} == {"meta"}
            assert [len(part) for part in told] == [2] * 4
            return Restoration(torch.full((2, 3, SIZE, SIZE), 0.25), told[0], None)

    known = References(np.zeros((3, SIZE, SIZE, 3), np.uint8), np.ones((3, 4), np.float32))
    model: Restorer = Elsewhere()  # type: ignore[assignment]
    restored = run_model(model, torch.rand(2, 3, SIZE, SIZE), known)
    assert restored.device.type == "cpu" and float(restored.max()) == 0.25


def test_pixels_survive_the_way_to_a_tensor_and_back() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    assert (to_image(to_tensor(image)) == image).all()


def test_a_page_shows_each_face_as_it_came_its_references_and_the_restored_one(
    marking: Marking, save: Callable[..., Path], tmp_path: Path
) -> None:
    photo, sheet = save("photo.png", [0]), ContactSheet()
    rows = restore([photo], [save("mine.png", [0], 1)], tmp_path, tmp_path / "out", on_face=sheet.add)
    ((face,), (row,)) = sheet.faces, rows
    assert face.photo == row.photo and face.lq.shape == face.restored.shape == (SIZE, SIZE, 3)
    assert len(face.references) == 1 and not np.array_equal(face.lq, face.restored)
    unsure = replace(row, reason="It is uncertain.")
    lost = PhotoOutcome(str(tmp_path / "other.png"), None, "dropped", "No face was found.")
    facts = sheet.build("<RUN>", [unsure, lost], tmp_path)
    html = render_sheet(facts)
    assert html.count("data:image/webp;base64,") == 3 and "&lt;RUN&gt;" in html and 'src="http' not in html
    assert "1 photo: No face was found." in html and "It is uncertain." in html and "Not measured: NIQE" in html
    # The report can read the written file.
    run = tmp_path / "run"
    (run / "restored").mkdir(parents=True)
    (run / "config.json").write_text("{}")
    (run / "restored" / "old.json").write_text(json.dumps(facts))
    (found,) = read_run(run)["sheets"]
    assert (found["name"], found["photos"], found["not_restored"]) == ("old", 2, {"No face was found.": 1})
    assert (
        found["faces"][0]["reason"].startswith("It is uncertain. The face was restored with 1 reference")
        and len(found["faces"][0]["references"]) == 1
    )
    assert str(tmp_path) not in json.dumps(facts["faces"]), "the sheet contains a path of this machine"


def test_who_is_kept_out_of_the_runs_dataset_is_no_reference_and_not_restored(
    marking: Marking, save: Callable[..., Path], tmp_path: Path
) -> None:
    dataset, run = tmp_path / "dataset", tmp_path / "dataset" / "run"
    doubles.curated_album(tmp_path, people=3, each=2)
    out, photo = save("folder/out.png", [5], 1), save("one.png", [5])
    save("folder/fine.png", [5], 2)
    said: list[str] = []
    purge(dataset, plan_optout(dataset, [str(out)], read_photo=read_photo_row))
    with pytest.raises(BadInput, match=r"out\.png is kept out"):
        restore([photo], [out], run, tmp_path / "o")
    (row,) = restore([photo], [out.parent], run, tmp_path / "o", say=said.append)
    assert row.status == "ok" and marking.seen == [1] and any("left out of the references" in one for one in said)
    (row,) = restore([out], [], run, tmp_path / "o2")
    assert row.status == "dropped" and "opted out" in str(row.reason) and not (tmp_path / "o2" / "out.png").exists()
    # A copy of the photo with a comment and another path is kept out too.
    rated = tmp_path / "rated.png"
    with Image.open(out) as picture:
        info = PngInfo()
        info.add_text("Rating", "5")
        picture.save(rated, pnginfo=info)
    with pytest.raises(BadInput, match=r"rated\.png is kept out"):
        restore([photo], [rated], run, tmp_path / "o2")
    (row,) = restore([rated], [], run, tmp_path / "o2")
    assert row.status == "dropped"
    # For a run outside the dataset's folder, the list of opt-outs is not found.
    (row,) = restore([photo], [out], tmp_path / "elsewhere", tmp_path / "o3")
    assert row.status == "ok"
    # A face that opted out is recognized in other photos too.
    with Ledger.open(dataset, write=True) as ledger:
        vector = doubles.models("double").embed(np.stack([doubles.face(5, 9)]))[0]
        recognizer = doubles.models("double").recognizer_sha256()
        rows = [KeptOutMark("m", "face", "opted_out", datetime(2026, 1, 1), tuple(vector.tolist()), recognizer)]
        ledger.record("double", "all", {}, rows)
    with pytest.raises(BadInput, match="shows a face that opted out"):
        restore([photo], [save("r.png", [5], 3)], run, tmp_path / "o4")


@pytest.mark.slow
def test_a_photo_that_ends_the_process_that_reads_it_costs_itself_alone(
    marking: Marking, save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(untrusted_images, "open_pool", lambda workers: open_pool(workers, reads_oddly))
    dies = doubles.save(tmp_path / "die.png", np.zeros((*ODD["die"], 3), np.uint8))
    references, notices = tmp_path / "references", list[str]()
    doubles.save(references / "0.png", doubles.photo([0], 9))
    doubles.save(references / "1.png", np.zeros((*ODD["die"], 3), np.uint8))
    photos = [save("a.png", [0]), dies, save("b.png", [0])]
    restore(photos, [references], tmp_path, tmp_path / "o", limited=True, say=notices.append)
    rows = {Path(row["photo"]).stem: row for row in map(json.loads, (tmp_path / "o" / LOG).read_text().splitlines())}
    assert [rows[name]["status"] for name in ("a", "b", "die")] == ["ok", "ok", "failed"]
    assert rows["die"]["reason"] == f"{dies} cannot be read as a picture: it ends the process that decodes it."
    assert len(notices) == 1 and "1.png cannot be read as a picture: it ends the process" in notices[0]
    assert marking.seen == [1, 1]


def test_a_photo_stays_the_kind_of_file_that_it_was(
    marking: Marking, save: Callable[..., Path], tmp_path: Path
) -> None:
    gray = doubles.photo([0], 0).copy()
    gray[:] = gray[..., :1]
    photos = [save("a.jpg", [0]), save("b.webp", [0]), save("c.bmp", [0]), doubles.save(tmp_path / "d.png", gray)]
    deep = doubles.photo([0], 0).astype(np.uint16) * 257
    assert cv2.imwrite(str(tmp_path / "e.png"), deep[..., ::-1])
    photos.append(tmp_path / "e.png")
    for photo in photos:
        os.utime(photo, (1e9, 1e9))
    rows = restore(photos, [], tmp_path, tmp_path / "o", always=True)
    results = [Path(str(row.output)) for row in rows]
    assert [path.name for path in results] == ["a.jpg", "b.webp", "c.png", "d.png", "e.png"]
    assert all(path.stat().st_mtime == 1e9 for path in results)
    assert "outside the faces, the result differs by at most" in str(rows[0].reason) and rows[1].reason is None
    for photo, result in zip(photos[1:], results[1:], strict=True):
        before, after = (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (photo, result))
        assert before.dtype == after.dtype and before.shape == after.shape
        assert np.array_equal(before[:30], after[:30]) and not np.array_equal(before, after)
    assert np.ptp(decode(results[3]), axis=2).max() == 0
    rows = restore(photos[:1], [], tmp_path, tmp_path / "p", always=True, lossless=True)
    assert Path(str(rows[0].output)).name == "a.png" and rows[0].reason is None
    assert np.array_equal(decode(Path(str(rows[0].output)))[:30], decode(photos[0])[:30])


def test_a_broken_profile_and_a_photo_read_at_half_size_are_said(
    marking: Marking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = doubles.photo([0], 0)
    Image.fromarray(photo).save(tmp_path / "a.png", icc_profile=b"no profile")
    (row,) = restore([tmp_path / "a.png"], [], tmp_path, tmp_path / "o", always=True)
    assert row.status == "ok" and row.reason == "The colour profile of the photo is broken and was ignored."
    large = cv2.resize(photo, (2 * photo.shape[1], 2 * photo.shape[0]), interpolation=cv2.INTER_NEAREST)
    Image.fromarray(large).save(tmp_path / "b.jpg", quality=100, subsampling=0)
    monkeypatch.setattr("train.restore.restore_photos.open_readers", lambda _: nullcontext((None, read_smaller)))
    (row,) = restore([tmp_path / "b.jpg"], [], tmp_path, tmp_path / "p", always=True)
    assert row.status == "ok" and "so it was read at half its width and height" in str(row.reason)
    assert decode(Path(str(row.output))).shape == photo.shape


def read_smaller(path: Path) -> Picture:
    """Reads a photo with a limit for the number of pixels. The photo is above the limit, but at half size it is
    below."""
    pixels = len(doubles.photo([0], 0)) ** 2
    return decode_picture(path, 2 * pixels, keep_original=True)


def test_a_restored_face_that_is_not_finite_is_a_failed_photo(
    marking: Marking, save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = marking.forward
    monkeypatch.setattr(
        marking, "forward", lambda *args: honest(*args)._replace(image=torch.full((1, 3, SIZE, SIZE), torch.nan))
    )
    crop = doubles.save(tmp_path / "crop.png", doubles.face(3, 1, SIZE))
    for photo, aligned in ((save("one.png", [0]), False), (crop, True)):
        (row,) = restore([photo], [], tmp_path, tmp_path / "o", aligned=aligned, always=True)
        assert row.status == "failed" and "contains NaN or infinity" in str(row.reason)
    assert [path.name for path in (tmp_path / "o").iterdir() if path.suffix == ".png"] == []


def test_equal_frames_give_equal_files_whatever_is_restored_between_them(
    marking: Marking, save: Callable[..., Path], tmp_path: Path
) -> None:
    """Tests that a restoration draws no random numbers, because these would make a restored video flicker."""
    reference, frames = save("r.png", [5], 1), [save("1.png", [5]), save("2.png", [0, 5]), save("3.png", [5])]
    restore(frames, [reference], tmp_path, tmp_path / "o", always=True)
    results = [(tmp_path / "o" / frame.name).read_bytes() for frame in frames]
    assert results[0] == results[2] != frames[0].read_bytes() and results[1] != results[0]
    restore(frames[2:], [reference], tmp_path, tmp_path / "p", always=True)
    assert (tmp_path / "p" / "3.png").read_bytes() == results[0]


def test_a_photo_that_is_upside_down_is_restored_upright(
    marking: Marking, save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upright = decode(save("one.png", [5]))
    upright[:5, :5] = 255  # the double of the detector finds faces only if the white corner is at the top left

    def detect(image: np.ndarray) -> list[Detection]:
        return doubles.detect(np.where(image[:5, :5].min() == 255, image, 0).astype(np.uint8))

    turning: Callable[..., FaceModels] = lambda spec, device: replace(doubles.models(spec), detect=detect)  # noqa: E731
    monkeypatch.setattr(train.restore.restorers.face_restorer, "load_faces", turning)
    photos = [doubles.save(tmp_path / f"{turns}.png", np.rot90(upright, turns).copy()) for turns in range(4)]
    rows = restore(photos, [], tmp_path, tmp_path / "o", always=True)
    results = [np.rot90(decode(Path(str(row.output))), -turns).astype(int) for turns, row in enumerate(rows)]
    green = results[0][..., 1] > upright[..., 1].astype(int) + 20
    assert [row.status for row in rows] == ["ok"] * 4 and green.any()
    assert all(np.abs(result - results[0]).max() <= 8 for result in results)
