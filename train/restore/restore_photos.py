"""Restore the faces in photos and folders of photos, guided by reference photos of the person."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np

from manifests.errors import BadInput
from manifests.pictures.untrusted_images import open_readers
from manifests.runtime.cluster.connection import connect_to_cluster
from manifests.runtime.files import hash_config, lock_folder, remove_temporary_files
from manifests.runtime.json_log import log
from manifests.runtime.progress import Progress
from manifests.runtime.text import format_count, make_printable
from train.data.mesh import warps_references
from train.models.config import MOST_FACES
from train.restore.batches.face_batches import FaceBatches
from train.restore.batches.photo_pipeline import restore_in_batches
from train.restore.cluster_photos import NodeWork, name_restorer, open_restoring_pool, restore_on_cluster
from train.restore.decisions.harm import NO_LANDMARKS
from train.restore.decisions.kept_out_photos import drop_kept_out_references, find_kept_out_list
from train.restore.decisions.outcomes import PhotoOutcome
from train.restore.output_paths import plan_outputs
from train.restore.outputs.log import make_entry, select_earlier_entries, write_log
from train.restore.references.confirm_references import REFERENCE_PARTS
from train.restore.references.reference_people import describe_people, find_people
from train.restore.references.reference_photos import (
    ReferencePhoto,
    embed_for_restorer,
    list_reference_files,
    read_references,
)
from train.restore.restore_face import OnFace, RestoreSetup
from train.restore.restore_photo import RestoredPhoto, restore_or_explain
from train.restore.restorers.exported.manifest import strip_prefix
from train.restore.restorers.face_restorer import load_restorer_faces, needs_reference
from train.restore.restorers.open_restorer import open_restorer

STOPPED = "The photo was not restored, because the command was stopped: run the same command again."


def restore(
    inputs: Sequence[Path],
    references: Sequence[Path],
    checkpoint: Path,
    out: Path,
    *,
    base_model: str | None = None,
    faces: str | None = None,
    steps: int = 1,
    seed: int | None = None,
    aligned: bool = False,
    box: tuple[float, float, float, float] | None = None,
    strength: float = 1.0,
    always: bool = False,
    trust_references: bool = False,
    lossless: bool = False,
    batch: int | None = None,
    precision: str | None = None,
    progress: Progress = lambda *_: None,
    say: Callable[[str], None] = lambda _: None,
    on_face: OnFace | None = None,
    limited: bool = False,
    cluster: str | None = None,
) -> list[PhotoOutcome]:
    """Restores photos, and all photos in folders, into the folder `out`, and logs them in OUT/restored.jsonl.

    A face is kept unchanged if it is already sharper than a restored face would be, or if the result is worse than the
    face (train/restore/decisions/harm.py). With `always`, such faces are restored too. If the restorer needs a
    reference, a face without a reference is always kept unchanged. The result is mixed with the photo by `strength`,
    from 0 (a copy of the photo) to 1.

    Each face gets only references that show the same person (train/restore/references/choose_references.py). With
    `trust_references`, all references count as photos of the person, whatever the recognizer says.

    A result has the format, the depth, the colour profile, the metadata and the modification time of its photo
    (train/restore/pasting/write_photo.py). With `lossless`, a JPEG becomes a PNG.

    `inputs` and `references` are paths of photos and of folders. `checkpoint`, `base_model`, `steps` and `seed` are as
    in `load_restorer` (train/restore/restorers/load_restorer.py). `checkpoint` can also be onnx:FOLDER; torch is then
    not imported. `faces` is needed if the files of the face models were moved after the training; it replaces the
    recorded --faces value. If `aligned` is True, the inputs are square crops in the FFHQ template, and the results have
    the restorer's size. `box` (x0, y0, x1, y1), in pixels, is the box of the face if there is one photo. `say` gets
    each notice for the user. `on_face` gets each restored face, in the order of the photos. If `limited` is True, a
    worker process decodes the photos, within the limits of manifests/runtime/workers.py. `cluster` is the address of a
    Ray cluster whose nodes restore the photos, or `local` to start Ray on this machine
    (train/restore/cluster_photos.py).

    The network restores `batch` faces at once, while threads read, search and write other photos
    (train/restore/batches/photo_pipeline.py). If `batch` is None, the free memory decides
    (train/restore/restorers/batch_size.py). A restorer of ONNX files then restores one face at a time. If the memory is
    too small, the batch is halved. With another batch size, a few pixels of a result can differ by one level.
    `precision` is fp32, bf16, or None for the usual precision of the device (train/restore/restorers/run_restorer.py).

    Returns an outcome for each photo, and for each folder that cannot be read. A photo that fails does not stop the
    other photos. BadInput, ModelUnavailable and FaceModelError are raised before anything is written. Raises BadInput
    also if this call would overwrite a file in `out` that was made from another photo or with other settings.
    """
    _check_box(box, inputs, aligned)
    if not 0 <= strength <= 1:
        raise BadInput(f"--strength {strength:g} is not a share: give a number from 0 to 1.")
    if batch is not None and not 1 <= batch <= MOST_FACES:
        raise BadInput(f"--batch {batch} is out of range: give 1 to {MOST_FACES}.")
    with ExitStack() as stack:
        ray = None if cluster is None else stack.enter_context(connect_to_cluster(cluster))
        model = open_restorer(checkpoint, base_model, steps, seed, precision, say)
        models = load_restorer_faces(model.facts, faces)
        outputs, unreadable_folders = plan_outputs(inputs, out)
        reference_files = list_reference_files(references, [output.photo for output in outputs])
        if reference_files and not REFERENCE_PARTS & set(model.config.parts):
            say("This restorer uses no references. The references are used only to check the restored faces.")
        kept_out = find_kept_out_list(strip_prefix(checkpoint))
        read, read_original = stack.enter_context(open_readers(limited))
        reference_files = drop_kept_out_references(reference_files, kept_out, read_original, say)
        if needs_reference(model.facts) and not reference_files:
            raise BadInput("This restorer needs a reference: give a photo of the same person with --reference.")
        reference_photos = read_references(reference_files, model.config, models, say, read)
        if warps_references(model.config.parts):
            _say_unwarped(reference_photos, say)
        embeddings = [face.embedding for photo in reference_photos for face in photo.faces]
        if kept_out is not None and embeddings and kept_out.matches(np.stack(embeddings)).any():
            raise BadInput(
                "A reference shows a face that opted out of the dataset of this run: give other photos with "
                "--reference."
            )
        size, dim = model.config.size, models.dim
        reference_photos = embed_for_restorer(reference_photos, model.embed_references, size, dim)
        people = find_people(reference_photos, models.same_person)
        for sentence in describe_people(people, models.same_person, trust_references):
            say(sentence)
        settings = hash_config(
            {
                "checkpoint": str(strip_prefix(checkpoint).resolve()),
                "base_model": model.config.base_model,
                "restorer": model.facts,
                "references": [photo.sha256 for photo in reference_photos],
                "aligned": aligned,
                "box": box,
                "strength": strength,
                "always": always,
                "trust_references": trust_references,
                "lossless": lossless,
                **({"steps": steps, "seed": model.seed} if model.config.denoise else {}),
                **({} if model.precision == "fp32" else {"precision": model.precision}),
            }
        )
        make_setup = partial(
            RestoreSetup,
            people=people,
            aligned=aligned,
            box=box,
            strength=strength,
            always=always,
            trust_references=trust_references,
            lossless=lossless,
        )
        batches = FaceBatches(model, batch or model.find_batch_size())
        log("restorer", precision=model.precision, batch=batches.size)
        finished = dict[int, RestoredPhoto]()
        stack.enter_context(lock_folder(out))
        folders = sorted({out, *(output.own.parent for output in outputs)})
        _remove_leftovers(folders)
        earlier = select_earlier_entries(out, outputs, settings)
        restore_all: Callable[[], Generator[None]]
        if ray is None:
            setup = make_setup(model=model, models=models, read=read_original)
            photos = [partial(restore_or_explain, output, setup, kept_out) for output in outputs]
            restore_all = partial(restore_in_batches, photos, batches, finished)
        else:
            restorer = name_restorer(checkpoint, base_model, steps, seed, model, models, limited)
            pool = open_restoring_pool(ray, restorer, model, models, inputs, out)
            map_batches, cores = stack.enter_context(pool)
            work = NodeWork(restorer, make_setup, kept_out, batches.size, cores, on_face is not None)
            restore_all = partial(restore_on_cluster, map_batches, outputs, work, batches, finished)
        failed_folders = [PhotoOutcome(str(folder), None, "failed", why) for folder, why in unreadable_folders]

        def write_entries() -> None:
            entries = []
            for index, output in enumerate(outputs):
                stopped = PhotoOutcome(str(output.photo), None, "failed", STOPPED)
                outcome = finished[index].outcome if index in finished else stopped
                entries.append(make_entry(asdict(outcome), output, out, settings, model.precision))
            write_log(out, [*earlier, *entries, *(asdict(one) for one in failed_folders)])

        write_entries()  # before the first photo: after a kill, the next call recognizes the restored files
        done = 0
        try:
            with closing(restore_all()) as reports:
                for _ in reports:
                    while done in finished:  # report the photos in their order
                        photo = finished[done]
                        for face in photo.faces:
                            if on_face is not None:
                                on_face(outputs[done].photo, *face)
                        finished[done] = replace(photo, faces=())
                        done += 1
                        progress("restore", done, len(outputs))
        finally:
            write_entries()
        if cluster is not None:
            _remove_leftovers(folders)  # a node that died can have left a half-written file
        batches.describe_halving(say)
        outcomes = [finished[index].outcome for index in range(len(outputs))]
        decisions = [face.decision for outcome in outcomes for face in outcome.faces]
        if count := decisions.count(NO_LANDMARKS):
            faces_of_photos = format_count(len(decisions), "face")
            say(
                f"The landmarks for the warp were not found on {count} of {faces_of_photos} in the photos: "
                f"{'this face was' if count == 1 else 'these faces were'} kept."
            )
    return [*outcomes, *failed_folders]


def _remove_leftovers(folders: Sequence[Path]) -> None:
    """Removes the temporary files of a call that was killed."""
    for folder in folders:
        remove_temporary_files(folder, recursive=False)


def _say_unwarped(photos: Sequence[ReferencePhoto], say: Callable[[str], None]) -> None:
    """If faces of the references have no points for the warp, `say` gets a sentence with their number and photos."""
    faces = [(photo, face) for photo in photos for face in photo.faces]
    missing = [make_printable(photo.path) for photo, face in faces if face.landmarks is None]
    if missing:
        say(
            f"The landmarks for the warp were not found on {len(missing)} of {format_count(len(faces), 'face')} in the "
            f"references: {', '.join(dict.fromkeys(missing))}."
        )


def _check_box(box: tuple[float, float, float, float] | None, inputs: Sequence[Path], aligned: bool) -> None:
    if box is None:
        return
    if aligned or len(inputs) != 1 or not inputs[0].is_file():
        raise BadInput("--box points at a face in one photo: give exactly one photo, and leave out --aligned.")
    if not (all(map(math.isfinite, box)) and box[0] < box[2] and box[1] < box[3]):
        numbers = ",".join(f"{edge:g}" for edge in box)
        raise BadInput(
            f"--box {numbers} is not a box: give four finite numbers x0,y0,x1,y1 in pixels, with x0 < x1 and y0 < y1."
        )
