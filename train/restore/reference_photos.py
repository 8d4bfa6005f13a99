"""Read the reference photos of a person: find, align and embed the largest face of each photo, and warp this face to an
input."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from curate.faces.align import FFHQ_512, FFHQ_SIZE, align_face, crop_for_recognizer
from curate.faces.interface import FaceModels
from degrade.operations.pixels import shrink
from manifests.errors import BadInput
from manifests.runtime.text import make_printable
from manifests.runtime.untrusted_images import Read, read_picture
from train.data.landmarks import choose_largest_face, detect_faces, map_to_crop
from train.data.tensors import to_image, to_tensor
from train.models.restorer import Restorer
from train.restore.output_paths import list_photos


@dataclass(frozen=True)
class References:
    """Holds the K references that a restorer gets, crops of one person with their embeddings. K may be 0."""

    crops: torch.Tensor  # float32 (K, 3, S, S) in 0..1, aligned to the FFHQ template
    embeddings: torch.Tensor  # float32 (K, d) unit rows
    landmarks: tuple[np.ndarray | None, ...] = ()  # (5, 2) in pixels of each crop, or None if no landmarks were found


def list_reference_files(references: Sequence[Path], inputs: Sequence[Path]) -> list[tuple[Path, Path | None]]:
    """Lists the reference photos as (file, folder). `folder` is None if the user named the file itself.

    A photo in a folder of references is left out if it is also one of `inputs`, because a photo must not be its own
    reference. Raises BadInput if a folder of references contains no file that can be used.
    """
    own = {os.path.realpath(path) for path in inputs}
    files: list[tuple[Path, Path | None]] = []
    for path in references:
        if not path.is_dir():
            files.append((path, None))
            continue
        inside = [photo for photo in list_photos(path) if os.path.realpath(photo) not in own]
        if not inside:
            raise BadInput(
                f"{make_printable(path)} contains no file to use as a reference: name photos, or a folder of photos, "
                "with --reference."
            )
        files += [(photo, path) for photo in inside]
    return files


def read_references(
    files: Sequence[tuple[Path, Path | None]],
    model: Restorer,
    models: FaceModels,
    say: Callable[[str], None] = lambda _: None,
    read: Read = read_picture,
) -> References:
    """Reads the largest face of each photo that `list_reference_files` lists.

    A photo of a folder is left out if it cannot be read or shows no face. `say` gets a sentence for each photo that is
    left out, and for each photo with several faces. Raises BadInput if a photo that the user named cannot be read or
    shows no face. Raises BadInput also if no photo of a folder shows a face.
    """
    size = model.config.size
    crops: list[torch.Tensor] = []
    recognizer_crops: list[np.ndarray] = []
    landmarks: list[np.ndarray | None] = []
    folders_in_use: set[Path] = set()
    for path, folder in files:
        try:
            image = read(path)
            detections = detect_faces(image, models)
            if not detections:
                raise BadInput(
                    f"No face was found in the reference {make_printable(path)}: name a photo that shows the person "
                    "clearly."
                )
        except BadInput as error:
            if folder is None:
                raise
            say(f"A photo was left out of the references: {error}")
            continue
        if folder is not None:
            folders_in_use.add(folder)
        if len(detections) > 1:
            say(
                f"The reference {make_printable(path)} shows {len(detections)} faces, and the largest face is used. "
                "If the largest face is a different person, crop the photo."
            )
        face = choose_largest_face(detections)
        crop = align_face(image, face.landmarks5, FFHQ_512, FFHQ_SIZE)
        crops.append(to_tensor(shrink(crop, size)))
        landmarks.append(map_to_crop(face.landmarks5, size))
        recognizer_crops.append(crop_for_recognizer(crop, models.template, models.size))
    unused = next((folder for _, folder in files if folder is not None and folder not in folders_in_use), None)
    if unused is not None:
        raise BadInput(f"No photo in {make_printable(unused)} shows a face: name another folder with --reference.")
    if not crops:
        return References(torch.zeros(0, 3, size, size), torch.zeros(0, models.dim))
    embeddings = torch.from_numpy(models.embed(np.stack(recognizer_crops)))
    return References(torch.stack(crops), embeddings, tuple(landmarks))


def warp_references(model: Restorer, references: References, landmarks5: np.ndarray | None) -> References:
    """Warps the references so that their landmarks fit `landmarks5` (5, 2) of an input, in pixels of the LQ crop.

    Only a restorer with the part `warped` (ReFine) warps references; other restorers get the references unchanged. If
    the input has no landmarks, all references stay unchanged. A reference also stays unchanged if it has no landmarks,
    or if train/data/warp.py refuses to warp it.
    """
    if "warped" not in model.config.parts or landmarks5 is None or not len(references.crops):
        return references
    from train.data.warp import warp_to

    crops = list(references.crops)
    for i, own in zip(range(len(crops)), references.landmarks, strict=True):
        if own is not None:
            with suppress(ValueError):
                crops[i] = to_tensor(warp_to(to_image(crops[i]), own, landmarks5))
    return replace(references, crops=torch.stack(crops))
