"""Photos of a person as a restorer is shown them: the face of each, aligned, with its embedding and landmarks."""

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
from train.data.landmarks import detect_faces, landmarks_in_crop, largest_face
from train.data.tensors import to_image, to_tensor
from train.models.restorer import Restorer
from train.restore.output_paths import list_photos


@dataclass(frozen=True)
class References:
    """What a restorer is shown of a person: K may be 0."""

    crops: torch.Tensor  # float32 (K, 3, S, S), 0..1, FFHQ template
    embeddings: torch.Tensor  # float32 (K, d) unit rows
    landmarks: tuple[np.ndarray | None, ...] = ()  # (5, 2) in pixels of each crop, None where none were found


def list_reference_files(references: Sequence[Path], inputs: Sequence[Path]) -> list[tuple[Path, Path | None]]:
    """Every reference photo, with the folder that it was found in where a folder was named.

    The photos that are to be restored are no references of themselves. Raises BadInput for a folder without a file.
    """
    own = {os.path.realpath(path) for path in inputs}
    found: list[tuple[Path, Path | None]] = []
    for path in references:
        if not path.is_dir():
            found.append((path, None))
            continue
        inside = [photo for photo in list_photos(path) if os.path.realpath(photo) not in own]
        if not inside:
            raise BadInput(
                f"There is no file in {make_printable(path)}: name photos, or a folder of photos, as --reference."
            )
        found += [(photo, path) for photo in inside]
    return found


def read_references(
    files: Sequence[tuple[Path, Path | None]],
    model: Restorer,
    models: FaceModels,
    say: Callable[[str], None] = lambda _: None,
    read: Read = read_picture,
) -> References:
    """The largest face of every photo of `list_reference_files`; `notice` is told where there were several.

    Raises BadInput for a photo that cannot be read or shows no face; of a folder `notice` is told which those are, and
    BadInput is raised where it has no other.
    """
    size, crops, chips, landmarks = model.config.size, [], [], list[np.ndarray | None]()
    used: set[Path] = set()
    for path, folder in files:
        try:
            image = read(path)
            found = detect_faces(image, models)
            if not found:
                raise BadInput(
                    f"No face was found in the reference {make_printable(path)}: name a photo that shows the person "
                    "clearly."
                )
        except BadInput as error:
            if folder is None:
                raise
            say(f"Left out of the references: {error}")
            continue
        if folder is not None:
            used.add(folder)
        if len(found) > 1:
            say(
                f"The reference {make_printable(path)} shows {len(found)} faces and the largest was taken for "
                "the person: crop the photo where that is somebody else."
            )
        face = largest_face(found)
        crop = align_face(image, face.landmarks5, FFHQ_512, FFHQ_SIZE)
        crops.append(to_tensor(shrink(crop, size)))
        landmarks.append(landmarks_in_crop(face.landmarks5, size))
        chips.append(crop_for_recognizer(crop, models.template, models.size))
    if useless := next((folder for _, folder in files if folder is not None and folder not in used), None):
        raise BadInput(f"No photo in the folder of references {make_printable(useless)} shows a face: name another.")
    if not crops:
        return References(torch.zeros(0, 3, size, size), torch.zeros(0, models.dim))
    return References(torch.stack(crops), torch.from_numpy(models.embed(np.stack(chips))), tuple(landmarks))


def warp_references(model: Restorer, references: References, landmarks5: np.ndarray | None) -> References:
    """What a restorer is shown of `references` for an input with these landmarks (5, 2), in pixels of its LQ crop.

    Where its recipe has the part `warped` they are warped to the landmarks (ReFine); a reference without landmarks or
    with some that no face can be warped by, or all of them where the input has none, stays as it is aligned
    (train/data/warp.py).
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
