"""Reads reference photos: finds, aligns and embeds all their faces. Warps references to the landmarks of an input."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from curate.faces.align import FFHQ_512, FFHQ_SIZE, align_face, embed_face
from curate.faces.find_faces import find_usable_faces
from curate.faces.interface import Detection, FaceModels
from curate.faces.measure import hash_face
from degrade.operations.pixels import shrink
from manifests.errors import BadInput
from manifests.pictures.untrusted_images import Read, read_picture
from manifests.runtime.files import sha256_file
from manifests.runtime.text import make_printable
from train.data.landmarks import map_to_crop
from train.data.mesh import find_warp_points, warp_reference, warps_references
from train.models.config import ModelConfig
from train.restore.output_paths import list_photos


@dataclass(frozen=True)
class References:
    """Holds the K references of a face, all of one person, with their embeddings. K can be 0."""

    crops: np.ndarray  # The crops (K, S, S, 3), uint8, aligned to the FFHQ template.
    embeddings: np.ndarray  # The embeddings (K, d), float32, each of length 1.
    # The points of each crop for the warp, (n, 2) in pixels of the crop (train/data/mesh.py). None if they were not
    # found.
    landmarks: tuple[np.ndarray | None, ...] = ()


@dataclass(frozen=True)
class ReferenceFace:
    """Holds one face of a reference photo."""

    box: tuple[float, float, float, float]  # x0, y0, x1, y1 in photo pixels.
    crop: np.ndarray  # The crop (S, S, 3), uint8, aligned to the FFHQ template.
    embedding: np.ndarray  # The embedding (d,), float32, of length 1.
    # The points of the crop for the warp, (n, 2) in pixels of the crop (train/data/mesh.py). None if they were not
    # found.
    landmarks: np.ndarray | None
    phash: str  # See `curate.faces.measure.hash_face`.
    # The embedding that the restorer reads, float32 (e,). None if it was not computed.
    restorer_embedding: np.ndarray | None = None

    @property
    def area(self) -> float:
        """Returns the area of the box, in square pixels of the photo."""
        x0, y0, x1, y1 = self.box
        return (x1 - x0) * (y1 - y0)


@dataclass(frozen=True)
class ReferencePhoto:
    """Holds a reference photo with all its faces."""

    path: Path
    sha256: str  # the sha256 of the file, as hex
    faces: tuple[ReferenceFace, ...]


def list_reference_files(references: Sequence[Path], inputs: Sequence[Path]) -> list[tuple[Path, Path | None]]:
    """Lists the reference photos as (file, folder). `folder` is None if the user named the file itself.

    Photos in `inputs` are left out of a folder of references, because a photo must not be its own reference. Raises
    BadInput if a folder of references contains no other file.
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
                f"{make_printable(path)} contains no file to use as a reference: give photos, or a folder of photos, "
                "with --reference."
            )
        files += [(photo, path) for photo in inside]
    return files


def read_references(
    files: Sequence[tuple[Path, Path | None]],
    config: ModelConfig,
    models: FaceModels,
    say: Callable[[str], None] = lambda _: None,
    read: Read = read_picture,
) -> list[ReferencePhoto]:
    """Reads all faces of each photo that `list_reference_files` lists.

    A photo is left out if it cannot be read or shows no face. `say` gets a sentence for each photo that is left out.
    Raises BadInput if `files` is not empty and every photo is left out.
    """
    photos, reasons = list[ReferencePhoto](), list[str]()
    for path, _ in files:
        try:
            image = read(path)
            detections = find_usable_faces(image, models)
            if not detections:
                raise BadInput(
                    f"No face was found in the reference {make_printable(path)}: give a photo that shows the person "
                    "clearly."
                )
        except BadInput as error:
            reasons.append(str(error))
            continue
        faces = [_read_face(image, face, config, models) for face in detections]
        photos.append(ReferencePhoto(path, sha256_file(path), tuple(faces)))
    if files and not photos:
        count = len(reasons) - 1
        others = f" {count} other reference{'s' * (count > 1)} cannot be used either." if count else ""
        raise BadInput(f"No reference can be used. {reasons[0]}{others}")
    for reason in reasons:
        say(f"A photo was left out of the references: {reason}")
    return photos


def embed_for_restorer(
    photos: Sequence[ReferencePhoto], embed: Callable[[References], References], size: int, dim: int
) -> list[ReferencePhoto]:
    """Returns the photos with the embeddings that the restorer reads, `ReferenceFace.restorer_embedding`.

    `embed` is `FaceRestorer.embed_references`. `size` and `dim` are as in `join_references`.
    """
    embedded = []
    for photo in photos:
        own = embed(join_references(photo.faces, size, dim)).embeddings
        faces = (replace(face, restorer_embedding=row) for face, row in zip(photo.faces, own, strict=True))
        embedded.append(replace(photo, faces=tuple(faces)))
    return embedded


def join_references(faces: Sequence[ReferenceFace], size: int, dim: int) -> References:
    """Joins the faces to one `References` object. If `faces` is empty, `size` and `dim` give the shapes of the empty
    arrays."""
    if not faces:
        return References(np.zeros((0, size, size, 3), np.uint8), np.zeros((0, dim), np.float32))
    embeddings = np.stack([face.embedding for face in faces])
    crops = np.stack([face.crop for face in faces])
    return References(crops, embeddings, tuple(face.landmarks for face in faces))


def _read_face(image: np.ndarray, face: Detection, config: ModelConfig, models: FaceModels) -> ReferenceFace:
    large, size = align_face(image, face.landmarks5, FFHQ_512, FFHQ_SIZE), config.size
    x0, y0, x1, y1 = (round(float(edge), 1) for edge in face.box)
    crop = shrink(large, size)
    points = find_warp_points(config.parts, crop, map_to_crop(face.landmarks5, size))
    return ReferenceFace((x0, y0, x1, y1), crop, embed_face(large, models), points, hash_face(large))


def limit_references(config: ModelConfig, references: References) -> References:
    """Returns the first references, as many as the restorer reads. Only some restorers have a limit (ReFine,
    InstantRestore)."""
    most = config.most_references
    crops, embeddings, landmarks = references.crops[:most], references.embeddings[:most], references.landmarks[:most]
    return replace(references, crops=crops, embeddings=embeddings, landmarks=landmarks)


def warp_references(config: ModelConfig, references: References, points: np.ndarray | None) -> References:
    """Warps the references so that their points fit the `points` (n, 2) of an input, in pixels of the LQ crop.

    `find_warp_points` (train/data/mesh.py) finds the points. References are warped only for a restorer with the part
    `warped` or `mesh`, and only if the input has points. A reference is not warped if it has no points, or if
    train/data/warp.py refuses the warp.
    """
    if not warps_references(config.parts) or points is None or not len(references.crops):
        return references
    crops = list(references.crops)
    for i, own in zip(range(len(crops)), references.landmarks, strict=True):
        warped = warp_reference(config.parts, crops[i], own, points)
        if warped is not None:
            crops[i] = warped
    return replace(references, crops=np.stack(crops))
