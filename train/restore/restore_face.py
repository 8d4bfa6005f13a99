"""Prepare one face of a photo for the network, decide whether the result is used, and explain the decision in a
sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from curate.faces.align import FFHQ_512, FFHQ_SIZE, align_face, embed_face
from curate.faces.interface import FaceModels
from curate.faces.measure import hash_face, measure_sharpness
from degrade.operations.pixels import shrink
from manifests.pictures.untrusted_images import ReadOriginal
from train.data.face_measures import InputFace, describe_crop, describe_face
from train.data.landmarks import map_to_crop
from train.data.mesh import MESH, find_warp_points, warps_references
from train.restore.batches.face_batches import FaceInput
from train.restore.decisions import harm
from train.restore.decisions.coarse_form import keep_coarse_form
from train.restore.decisions.outcomes import FaceOutcome
from train.restore.pasting.paste import round_to_levels
from train.restore.references.choose_references import FaceInPhoto, ReferenceChoice
from train.restore.references.confirm_references import NotRestoredYet
from train.restore.references.reference_people import ReferencePerson
from train.restore.references.reference_photos import (
    References,
    join_references,
    warp_references,
)
from train.restore.restorers.face_restorer import FaceRestorer, needs_reference

# A function that is called for each restored face. Its arguments are the photo's path, the LQ crop, the references that
# the restorer gets, and the restored crop. Both crops are uint8 (S, S, 3), and S is the restorer's size.
OnFace = Callable[[Path, np.ndarray, References, np.ndarray], None]


@dataclass(frozen=True)
class RestoreSetup:
    """Holds the models, the references and the options, which are the same for all photos of a call."""

    model: FaceRestorer
    models: FaceModels
    people: list[ReferencePerson]  # The people in the references, the main person first.
    aligned: bool  # Whether the inputs are square crops in the FFHQ template.
    box: tuple[float, float, float, float] | None  # The corners x0, y0, x1, y1 of the face, if the user gave --box.
    strength: float  # The share of the restored face in the result, 0 to 1.
    always: bool  # Whether faces are restored even if the result is worse.
    trust_references: bool  # Whether all references count as photos of the person, whatever the recognizer says.
    lossless: bool  # Whether a JPEG becomes a PNG.
    read: ReadOriginal


@dataclass(frozen=True)
class PhotoFace:
    """Holds one face of a photo before its restoration."""

    box: tuple[float, ...]  # x0, y0, x1, y1 in photo pixels.
    landmarks5: np.ndarray | None  # (5, 2) in photo pixels; None for an aligned crop.
    # The points of the crop for the warp, (n, 2) in pixels of the crop. None if there are no exact points.
    points: np.ndarray | None
    measured: InputFace
    compared: FaceInPhoto
    # At most one item: the face after a restoration without references, float32 (S, S, 3) in 0..255.
    alone: list[np.ndarray]

    @property
    def crop(self) -> np.ndarray:
        """Returns the LQ crop at the restorer's size, uint8 (S, S, 3)."""
        return self.measured.crop


@dataclass(frozen=True)
class FacePlan:
    """Holds a face that will be restored."""

    face: PhotoFace
    name: str  # the words with which the sentence of the outcome begins, for example "The face"
    choice: ReferenceChoice
    embeddings: np.ndarray  # the recognizer's embeddings of the references, float32 (K, d)
    input: FaceInput


def cut_face(
    image: np.ndarray, box: np.ndarray, landmarks5: np.ndarray, setup: RestoreSetup, exact: bool = True
) -> PhotoFace:
    """Returns the face with the given box (4,) and landmarks (5, 2), both in pixels of an image, uint8 (H, W, 3).

    `exact` is False if the landmarks are a guess. Guessed landmarks are not used for a warp.
    """
    size = setup.model.config.size
    large = align_face(image, landmarks5, FFHQ_512, FFHQ_SIZE)
    crop = shrink(large, size)
    alone: list[np.ndarray] = []
    compared = _describe(crop, large, alone, setup)
    corners = tuple(round(float(edge), 1) for edge in box)
    crop_landmarks = map_to_crop(landmarks5, size) if exact else None
    points = find_warp_points(setup.model.config.parts, crop, crop_landmarks)
    measured = describe_face(image, landmarks5, crop)
    return PhotoFace(corners, landmarks5, points, measured, compared, alone)


def take_crop(image: np.ndarray, crop: np.ndarray, crop_landmarks: np.ndarray | None, setup: RestoreSetup) -> PhotoFace:
    """Returns the face of an aligned image, uint8 (N, N, 3).

    `crop` is the image at the restorer's size. `crop_landmarks` (5, 2) are in pixels of the crop.
    """
    alone: list[np.ndarray] = []
    compared = _describe(crop, image, alone, setup)
    box = (0.0, 0.0, float(image.shape[1]), float(image.shape[0]))
    points = find_warp_points(setup.model.config.parts, crop, crop_landmarks)
    return PhotoFace(box, None, points, describe_crop(image, crop), compared, alone)


def _describe(crop: np.ndarray, large: np.ndarray, alone: Sequence[np.ndarray], setup: RestoreSetup) -> FaceInPhoto:
    """Returns the values by which the references of a face are chosen.

    `large` is the crop before it was shrunk to the restorer's size. `alone` is as in PhotoFace.
    """

    def embed_restored() -> np.ndarray:
        if not alone:
            raise NotRestoredYet
        return embed_face(round_to_levels(alone[0]), setup.models)

    embed = None if needs_reference(setup.model.facts) else embed_restored
    return FaceInPhoto(embed_face(crop, setup.models), hash_face(large), measure_sharpness(large), embed)


def plan_face(face: PhotoFace, choice: ReferenceChoice, setup: RestoreSetup, name: str) -> FacePlan | FaceOutcome:
    """Decides whether a face is given to the network. Returns the plan, or the outcome if the face is kept.

    `name` is as in FacePlan.
    """
    if not setup.always and harm.is_already_sharp(face.measured, harm.LIMITS):
        size = setup.model.config.size
        reason = f"it is already sharper than a restorer of {size} x {size} pixels can write"
        return _keep(face, choice, name, harm.ALREADY_SHARP, reason)
    if warps_references(setup.model.config.parts):
        choice = choice.name_unwarped(leave_out=_needs_mesh(setup.model))
    if not choice.faces and needs_reference(setup.model.facts):
        why = f"this restorer needs a reference, and the face has none{choice.note}"
        return FaceOutcome(face.box, None, False, harm.NO_REFERENCE, f"{name} was kept as it is, because {why}.")
    if face.points is None and _needs_mesh(setup.model):
        why = "this restorer warps references to the landmarks of the face, and the landmarks were not found"
        return FaceOutcome(face.box, None, False, harm.NO_LANDMARKS, f"{name} was kept as it is, because {why}.")
    choice = choice.limit(setup.model.config.most_references)
    references = join_references(choice.faces, setup.model.config.size, setup.models.dim)
    own = [one.restorer_embedding for one in choice.faces if one.restorer_embedding is not None]
    for_restorer = replace(references, embeddings=np.stack(own)) if own else references
    warped = warp_references(setup.model.config, for_restorer, face.points)
    return FacePlan(face, name, choice, references.embeddings, FaceInput(face.crop, warped))


def finish_face(plan: FacePlan, restored: np.ndarray, setup: RestoreSetup) -> tuple[FaceOutcome, np.ndarray | None]:
    """Returns the outcome of a face, and the crop that is pasted, float32 (S, S, 3) in 0..255, or None if the face is
    kept.

    `restored` is the result of the network, float32 (S, S, 3) in 0..255. The result is mixed with the input by
    `setup.strength`, and then checked for harm.
    """
    face, choice = plan.face, plan.choice
    cosine = float(face.compared.embedding @ embed_face(round_to_levels(restored), setup.models))
    restored = keep_coarse_form(face.measured, restored, cosine, setup.models.same_person)
    mixed = face.crop + np.float32(setup.strength) * (restored - face.crop)
    result = round_to_levels(mixed)
    embeddings = face.compared.embedding, embed_face(result, setup.models)
    measures = harm.measure_harm(face.measured, result, embeddings, plan.embeddings)
    found = harm.find_harm(measures, setup.models.same_person, harm.LIMITS)
    if found is not None and not setup.always:
        return _keep(face, choice, plan.name, *found, measures), None
    although = f", although {found[1]}" if found is not None else ""
    sentence = f"{plan.name} was restored {choice.describe()}{although}."
    return FaceOutcome(face.box, choice.similarity, True, harm.RESTORED, sentence, choice.uses, measures), mixed


def _needs_mesh(model: FaceRestorer) -> bool:
    """Returns whether the restorer can use only warped references (ReFineFIR).

    ReFineFIR's code ends with an error if no landmarks are found on the photo or on the reference. In this
    case, a restorer that was trained by Likeness uses the reference without a warp, as in its training and in
    `evaluate`.
    """
    return MESH in model.config.parts and "released" in model.facts


def _keep(
    face: PhotoFace,
    choice: ReferenceChoice,
    name: str,
    decision: str,
    explanation: str,
    measures: harm.HarmMeasures | None = None,
) -> FaceOutcome:
    sentence = f"{name} was kept as it is, because {explanation}; give --always to restore this face anyway."
    return FaceOutcome(face.box, choice.similarity, False, decision, sentence, choice.uses, measures)
