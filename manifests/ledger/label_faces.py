"""Finds the face to which each label of a photo belongs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from manifests.ledger.decisions.face_finder import measure_overlap
from manifests.ledger.records import Face, Label, Photo

# A label's box and a face's box match if their intersection over union is at least this number (ours). The number is
# low, because users and other detectors draw larger boxes than SCRFD. The box of a whole head has about twice the area
# of the box of its face.
MIN_LABEL_OVERLAP = 0.25


def match_labels(
    labels: Iterable[Label], faces: Iterable[Face], photos: Mapping[str, Photo]
) -> list[tuple[Label, Face | None]]:
    """Returns each label with its face, or with None if no face fits. The labels are sorted by photo and number.

    A face gets at most one label. Labels with boxes are matched first, from the largest overlap of a box and a face to
    the smallest. Among labels with boxes and the same text, only one gets a face of the photo. Then each label without
    a box gets the largest face of its photo that has no label yet. `photos` maps a photo id to the row of the photo,
    and must contain the photo of each label with a box.
    """
    labels_of: dict[str, list[Label]] = defaultdict(list)
    faces_of: dict[str, list[Face]] = defaultdict(list)
    for label in sorted(labels, key=lambda row: (row.photo_id, row.number)):
        labels_of[label.photo_id].append(label)
    for face in faces:
        if face.photo_id in labels_of:
            faces_of[face.photo_id].append(face)
    return [pair for photo, rows in labels_of.items() for pair in _match_photo(rows, faces_of[photo], photos)]


def _match_photo(
    labels: list[Label], faces: list[Face], photos: Mapping[str, Photo]
) -> list[tuple[Label, Face | None]]:
    overlaps = []
    for label in labels:
        if label.box is not None:
            box = _find_pixels(label.box, photos[label.photo_id])
            overlaps += [(-measure_overlap(box, face.box), label.number, face.face_id) for face in faces]
    label_of_number = {label.number: label for label in labels}
    face_of_id = {face.face_id: face for face in faces}
    face_of: dict[int, Face] = {}
    # The ids of faces that already have a label, and the texts of labels that already have a face
    taken: set[str] = set()
    for overlap, number, face_id in sorted(overlaps):
        text = label_of_number[number].label
        if -overlap >= MIN_LABEL_OVERLAP and number not in face_of and taken.isdisjoint((face_id, f"label {text}")):
            face_of[number] = face_of_id[face_id]
            taken |= {face_id, f"label {text}"}
    for label in labels:
        free = [face for face in faces if face.face_id not in taken]
        if label.box is None and free:
            face_of[label.number] = max(free, key=_rank_size)
            taken.add(face_of[label.number].face_id)
    return [(label, face_of.get(label.number)) for label in labels]


def select_labels_of_faces(
    labels: Iterable[Label], faces: Sequence[Face], photos: Mapping[str, Photo], face_ids: Collection[str]
) -> list[Label]:
    """Returns the labels that belong to the faces `face_ids`, or that may name one of these faces.

    The caller erases these labels together with the faces. `faces` are all faces to which labels may belong, including
    the faces `face_ids`. A label that belongs to no face may name a face whose centre is in the box of the label.
    """
    # Maps a photo id to the centres of its faces in `face_ids`
    centres: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for face in faces:
        if face.face_id in face_ids:
            centres[face.photo_id].append(((face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2))

    def may_name_one(label: Label) -> bool:
        if label.box is None or label.photo_id not in centres:
            return False
        x0, y0, x1, y1 = _find_pixels(label.box, photos[label.photo_id])
        return any(x0 <= x <= x1 and y0 <= y <= y1 for x, y in centres[label.photo_id])

    return [
        label
        for label, face in match_labels(labels, faces, photos)
        if (may_name_one(label) if face is None else face.face_id in face_ids)
    ]


def _find_pixels(box: Sequence[float], photo: Photo) -> list[float]:
    """Converts a box (x0, y0, x1, y1) from shares of the photo's width and height to pixels."""
    return [share * side for share, side in zip(box, (photo.width, photo.height) * 2, strict=True)]


def find_largest_faces(photos: Iterable[str], faces: Iterable[Face]) -> dict[str, Face]:
    """Returns a dict that maps each of these photo ids to the largest face of the photo."""
    matches = match_labels([Label(photo, "", True) for photo in photos], faces, {})
    return {label.photo_id: face for label, face in matches if face is not None}


def _rank_size(face: Face) -> tuple[float, str]:
    return (face.box[2] - face.box[0]) * (face.box[3] - face.box[1]), face.face_id
