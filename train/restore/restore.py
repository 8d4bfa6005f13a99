"""Any photo -> the same photo with its faces restored, guided by reference photos of the person."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from curate.faces.align import FFHQ_512, FFHQ_SIZE, align_face, crop_for_recognizer, fit_similarity, scale_template
from curate.faces.interface import FaceModels
from curate.faces.load import load_faces
from curate.faces.measure import measure_sharpness
from degrade.operations.pixels import shrink
from manifests.errors import BadInput
from manifests.ledger.paths import LEDGER_NAME
from manifests.runtime.files import hash_config, lock_folder, remove_temporary_files, sha256_file, write_atomically
from manifests.runtime.png_files import encode_png
from manifests.runtime.progress import Progress
from manifests.runtime.text import make_printable
from manifests.runtime.untrusted_images import Read, open_reader
from train.models.restorer import Restorer
from train.models.steps import check_steps
from train.restore.log import entry, kept_entries, write_log
from train.restore.output_paths import outputs_of
from train.restore.paste import paste
from train.restore.reference_photos import (
    References,
    detect_faces,
    in_crop,
    landmarks_of,
    read_references,
    reference_files,
    shown_for,
    to_image,
    to_tensor,
)

if TYPE_CHECKING:
    from manifests.privacy.kept_out import KeptOutList

RELEASED = "osdface:"  # before a folder with OSDFace's released weights, given as --run
LOOKS = {"maps", "embedding", "extended", "identity"}  # the parts that look at references

OPTED_OUT = "It is kept out of the dataset of this run (opted out, or purged), so it was not restored."
STOPPED = "The run was stopped before this photo: the same command again restores it."

# Where an upright, frontal face has its five landmarks inside a detector's box, as shares of the box: the mean over
# 1,182 SCRFD detections on web photos, ours. For faces too degraded to be found.
LANDMARKS_IN_BOX = np.array([[0.270, 0.391], [0.733, 0.389], [0.503, 0.591], [0.314, 0.748], [0.697, 0.745]])

# `sharpness` below which a face counts as degraded, so that it may be the person although it is not recognized. Ours,
# over the published sets of LQ photos with references: the softest of 37 references has .39; 5 of 23 LQ photos lie
# below .35, among them the one photo (.13) whose person is not recognized.
DEGRADED_SHARPNESS = 0.35


# a photo with a face of it: the LQ crop at the restorer's size, what was shown of the person, the restored crop
Watch = Callable[[Path, np.ndarray, References, np.ndarray], None]


@dataclass(frozen=True)
class FaceDone:
    """One face of one photo."""

    box: tuple[float, ...]  # photo pixels
    similarity: float | None  # mean cosine to the references; None without references
    restored: bool


@dataclass(frozen=True)
class PhotoDone:
    """What became of one photo; `reason` is a sentence where nothing was restored, or where something should be
    known."""

    photo: str
    output: str | None
    status: str  # ok, dropped, failed
    reason: str | None
    faces: tuple[FaceDone, ...] = ()


def restore(
    inputs: Sequence[Path],
    references: Sequence[Path],
    checkpoint: Path,
    out: Path,
    *,
    base_model: str | None = None,
    faces: str | None = None,
    steps: int = 1,
    aligned: bool = False,
    box: tuple[float, float, float, float] | None = None,
    progress: Progress = lambda *_: None,
    notice: Callable[[str], None] = lambda _: None,
    watch: Watch = lambda *_: None,
    limited: bool = False,
) -> list[PhotoDone]:
    """Restore photos and folders of photos into `out` as PNG, with a row for each in OUT/restored.jsonl.

    Without references every face is restored; with references those that match them, and a face that is alone in its
    photo and too degraded to be recognized. A photo that cannot be restored, and a folder that cannot be read, is a row
    with status failed. `aligned` takes the inputs as square FFHQ-template crops and answers crops of the restorer's
    size. `box` (x0, y0, x1, y1) names the face in a single photo. `checkpoint`, `base_model` and `steps` are as in
    `open_restorer`. `faces` replaces the recorded --faces spec where the files have moved. `notice` is told, a sentence
    each, what was assumed of the references; `watch` is shown every face that is restored. `limited` decodes photos and
    references in a process of their own, where one that hangs, crashes or wants too much memory costs itself alone;
    else they are decoded here, where nothing is limited. Raises BadInput (also where a file in `out` would be
    overwritten that is not this photo restored with these very settings), ModelUnavailable or FaceModelError before
    anything is written.
    """
    if box is not None and (aligned or len(inputs) != 1 or not inputs[0].is_file()):
        raise BadInput("--box names a face in one photo: give one photo, and no --aligned.")
    if box is not None and not (all(map(math.isfinite, box)) and box[0] < box[2] and box[1] < box[3]):
        raise BadInput("--box is x0,y0,x1,y1 in pixels, four finite numbers with x0 < x1 and y0 < y1.")
    model = on_device(open_restorer(checkpoint, base_model, steps))
    models = load_recorded_faces(model, faces)
    todo, unreadable = outputs_of(inputs, out)
    shown_files = reference_files(references, [path for path, _ in todo])
    if shown_files and not LOOKS & set(model.config.parts):
        notice("This restorer looks at no reference: they decide which faces are restored, and nothing else.")
    kept_out = _kept_out_near(Path(checkpoint))
    shown_files = _allowed(shown_files, kept_out, notice)
    with open_reader(limited) as read:
        known = read_references(shown_files, model, models, notice, read)
        if kept_out is not None and kept_out.matches(known.embeddings.numpy()).any():
            raise BadInput("A reference shows a face that opted out of the dataset of this run: name others.")
        settings = hash_config(
            {
                "checkpoint": str(checkpoint.resolve()),
                "base_model": model.config.base_model,
                "restorer": model.facts,
                "references": [sha256_file(path) for path, _ in shown_files],
                "aligned": aligned,
                "box": box,
                **({"steps": steps} if steps > 1 else {}),
            }
        )
        with lock_folder(out):
            for folder in sorted({out, *(target.parent for _, target in todo)}):
                remove_temporary_files(folder, below=False)
            kept, rows = kept_entries(out, todo, settings), list[PhotoDone]()
            closed = [PhotoDone(str(folder), None, "failed", reason) for folder, reason in unreadable]

            def log() -> None:
                stopped = [PhotoDone(str(path), None, "failed", STOPPED) for path, _ in todo[len(rows) :]]
                done = zip(todo, [*rows, *stopped], strict=True)
                now = [entry(asdict(row), path, target, out, settings) for (path, target), row in done]
                write_log(out, [*kept, *now, *(asdict(row) for row in closed)])

            log()  # before the first file, so that a killed run knows its own files again
            try:
                for path, target in todo:
                    try:
                        if (
                            kept_out is not None
                            and path.is_file()
                            and kept_out.reason_for(sha256_file(path)) is not None
                        ):
                            row = PhotoDone(str(path), None, "dropped", OPTED_OUT)
                        else:
                            row = _restore_one(path, target, model, models, known, aligned, box, watch, read)
                    except Exception as error:  # one odd photo must not end a folder of thousands
                        said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
                        row = PhotoDone(str(path), None, "failed", f"The photo could not be restored: {said}.")
                    rows.append(row)
                    progress("restore", len(rows), len(todo))
            finally:
                log()
    return [*rows, *closed]


def _kept_out_near(checkpoint: Path) -> KeptOutList | None:
    """Who is kept out of the dataset that a run lies in; None where it lies in none, and then no ledger is needed."""
    place = checkpoint.absolute()
    for folder in (place, *place.parents):
        if (folder / LEDGER_NAME).is_file():
            from manifests.privacy.kept_out import open_kept_out_list

            return open_kept_out_list(folder)
    return None


def _allowed(
    files: Sequence[tuple[Path, Path | None]], kept_out: KeptOutList | None, notice: Callable[[str], None]
) -> list[tuple[Path, Path | None]]:
    """The references without those that are kept out, each of which is told; one that was named itself is refused."""
    found = []
    for path, folder in files:
        if kept_out is None or not path.is_file() or kept_out.reason_for(sha256_file(path)) is None:
            found.append((path, folder))
        elif folder is None:
            raise BadInput(
                f"The reference {make_printable(path)} is kept out of the dataset of this run: name another."
            )
        else:
            notice(f"Left out of the references: {make_printable(path)} is kept out of the dataset of this run.")
    return found


def open_restorer(checkpoint: str | Path, base_model: str | None = None, steps: int = 1) -> Restorer:
    """A checkpoint folder, a RUN (its newest checkpoint), or osdface:FOLDER with OSDFace's released weights.

    `base_model` says where the diffusion model lies now; the released weights name none, so they need it. `steps` is
    how many a face is restored in, at most as many as it was trained for. Raises BadInput.
    """
    check_steps(steps)
    model = _opened(str(checkpoint), base_model)
    if steps > 1:
        model.take_steps(steps)
    return model


def _opened(name: str, base_model: str | None) -> Restorer:
    if not name.startswith(RELEASED):
        return Restorer.from_pretrained(Path(name), base_model)
    if base_model is None:
        raise BadInput(
            f"{name} needs the model that it was trained on: say --base-model FOLDER (Stable Diffusion 2.1-base in "
            "diffusers' layout)."
        )
    from train.models.released.osdface import load_osdface

    return load_osdface(Path(name.removeprefix(RELEASED)), base_model)


def on_device(model: Restorer) -> Restorer:
    """The restorer on the GPU, where there is one."""
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def load_recorded_faces(model: Restorer, spec: str | None) -> FaceModels:
    """The face models that a restorer was trained with; raises BadInput where the recognizer is another one.

    Released weights record none: any do then, to find faces by.
    """
    recorded = model.facts.get("recognizer")
    if recorded is None:
        return load_faces(spec or "auto")
    models = load_faces(spec or recorded["spec"])
    if models.recognizer_sha256() != recorded["sha256"]:
        raise BadInput(
            f"This restorer was trained with the recognizer of {recorded['spec']}, and {models.spec} holds another: "
            f"name the folder of the first with --faces."
        )
    return models


@torch.inference_mode()
def run_model(model: Restorer, lq: torch.Tensor, references: References) -> torch.Tensor:
    """One batch (B, 3, S, S) in 0..1 through the restorer, every image with the same references.

    Computed wherever the restorer is, from the CPU to the CPU.
    """
    batch, count, device = len(lq), len(references.crops), next(model.parameters(), lq).device
    restored = model(
        lq.to(device),
        references.crops.to(device).expand(batch, -1, -1, -1, -1),
        torch.ones(batch, count, dtype=torch.bool, device=device),
        references.embeddings.to(device).expand(batch, -1, -1),
    )
    return restored.image.cpu()


def _restore_one(
    path: Path,
    target: Path,
    model: Restorer,
    models: FaceModels,
    references: References,
    aligned: bool,
    box: tuple[float, float, float, float] | None,
    watch: Watch,
    read: Read,
) -> PhotoDone:
    try:
        image = read(path)
    except BadInput as error:
        return PhotoDone(str(path), None, "failed", str(error))
    if aligned:
        return _restore_crop(path, target, image, model, models, references, watch)
    if box is None:
        found = [(one.box, one.landmarks5) for one in detect_faces(image, models)]
    else:
        height, width = image.shape[:2]
        if box[0] >= width or box[1] >= height or box[2] <= 0 or box[3] <= 0:
            outside = f"The --box lies outside the photo, which is {width} x {height} pixels."
            return PhotoDone(str(path), None, "failed", outside)
        corner, extent = np.array(box[:2]), np.array(box[2:]) - np.array(box[:2])
        found = [(np.array(box), corner + LANDMARKS_IN_BOX * extent)]
    if not found:
        return PhotoDone(str(path), None, "dropped", "No face was found: point at it with --box x0,y0,x1,y1.")
    faces = [_judge(image, where, landmarks5, models, references) for where, landmarks5 in found]
    reason = None if box is None else _unwarped(model, references)
    if box is None and len(references.crops):
        soft = len(found) == 1 and _sharpness(image, found[0][1]) < DEGRADED_SHARPNESS
        faces, reason = _matching(faces, models.same_person, soft)
        if not any(face.restored for face in faces):
            return PhotoDone(str(path), None, "dropped", reason, tuple(faces))
    result, size = image, model.config.size
    for face, (_, landmarks5) in zip(faces, found, strict=True):
        if face.restored:
            crop = shrink(align_face(image, landmarks5, FFHQ_512, FFHQ_SIZE), size)
            own = shown_for(model, references, None if box is not None else in_crop(landmarks5, size))
            restored = to_image(run_model(model, to_tensor(crop)[None], own)[0])
            watch(path, crop, own, restored)
            result = paste(result, restored, fit_similarity(landmarks5, scale_template(FFHQ_512, FFHQ_SIZE, size)))
    _write(target, result)
    return PhotoDone(str(path), str(target), "ok", reason, tuple(faces))


def _restore_crop(
    path: Path,
    target: Path,
    crop: np.ndarray,
    model: Restorer,
    models: FaceModels,
    references: References,
    watch: Watch,
) -> PhotoDone:
    height, width = crop.shape[:2]
    if height != width:
        why = f"{width} x {height} is not square, so it is no aligned crop: leave --aligned away."
        return PhotoDone(str(path), None, "failed", why)
    lq = _at_size(crop, model.config.size)
    landmarks5 = landmarks_of(lq, models) if "warped" in model.config.parts else None
    reason = _unwarped(model, references) if landmarks5 is None else None
    references = shown_for(model, references, landmarks5)
    restored = to_image(run_model(model, to_tensor(lq)[None], references)[0])
    watch(path, lq, references, restored)
    _write(target, restored)
    return PhotoDone(str(path), str(target), "ok", reason, (FaceDone((0.0, 0.0, width, height), None, True),))


def _unwarped(model: Restorer, references: References) -> str | None:
    """What is said of an input without landmarks."""
    if "warped" not in model.config.parts or not len(references.crops):
        return None
    return "No landmarks were found on this face, so the references were not warped to it: they stayed as aligned."


def _sharpness(image: np.ndarray, landmarks5: np.ndarray) -> float:
    return measure_sharpness(align_face(image, landmarks5, FFHQ_512, FFHQ_SIZE))


def _matching(faces: list[FaceDone], same_person: float, degraded: bool) -> tuple[list[FaceDone], str | None]:
    """Which faces are the references' person, with a sentence where that is none of them or uncertain.

    A face that is alone in its photo is taken for the person where it is `degraded`, so that the recognizer's no counts
    for little.
    """
    if len(faces) == 1:
        likeness = faces[0].similarity or 0.0
        if likeness >= same_person:
            return faces, None
        if degraded:
            return faces, (
                f"The only face is too degraded to be confirmed as the person of the references (cosine "
                f"{likeness:.2f}, {same_person:g} wanted); it was restored as them."
            )
        return [replace(faces[0], restored=False)], (
            f"The only face does not match the references (cosine {likeness:.2f}, {same_person:g} wanted) and is sharp "
            f"enough to be recognized: insist with --box x0,y0,x1,y1 if it is their person."
        )
    judged = [replace(face, restored=(face.similarity or 0.0) >= same_person) for face in faces]
    if any(face.restored for face in judged):
        return judged, None
    best = max(face.similarity or 0.0 for face in faces)
    return judged, (
        f"None of the {len(faces)} faces matches the references (best cosine {best:.2f}, {same_person:g} wanted): "
        f"point at the face with --box x0,y0,x1,y1."
    )


def _at_size(crop: np.ndarray, size: int) -> np.ndarray:
    """A square crop at the restorer's size: area-averaged where it is larger, bicubic where it is smaller."""
    if crop.shape[0] >= size:
        return shrink(crop, size)
    return cv2.resize(crop, (size, size), interpolation=cv2.INTER_CUBIC)


def _judge(
    image: np.ndarray, box: np.ndarray, landmarks5: np.ndarray, models: FaceModels, references: References
) -> FaceDone:
    where = tuple(round(float(edge), 1) for edge in box)
    if not len(references.crops):
        return FaceDone(where, None, True)
    chip = crop_for_recognizer(align_face(image, landmarks5, FFHQ_512, FFHQ_SIZE), models.template, models.size)
    return FaceDone(where, float((references.embeddings.numpy() @ models.embed(chip[None])[0]).mean()), True)


def _write(path: Path, image: np.ndarray) -> None:
    write_atomically(path, encode_png(image))
