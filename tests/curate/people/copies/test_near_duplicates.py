"""Tests that copies of a picture are near-duplicates, and that collages and other pictures of the person are not."""

from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pytest

from curate.config import DedupeRules
from curate.faces.comparison.luma_dct import encode_luma
from curate.faces.comparison.turned_hashes import MIRRORED, turn_hashes
from curate.people.copies import same_picture as module
from curate.people.copies.near_duplicates import find_linked_photos, find_near_duplicates, find_pictures
from manifests.ledger.records import Face, Photo
from tests.doubles.faces.face_rows import face

RULES = DedupeRules()
ZERO = "0" * 16


def photo(name: str, phash: str = ZERO, size: tuple[int, int] = (400, 300)) -> Photo:
    return Photo(name, *size, phash)


def unit(*rows) -> np.ndarray:
    values = np.array(rows, np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def kept(faces, photos, vectors, rules=RULES) -> dict[str, str | None]:
    found = find_near_duplicates(faces, photos, vectors, rules)
    assert [row.face_id for row in found] == [row.face_id for row in faces]
    for row in found:
        assert (row.status, row.reason) == (("ok", None) if row.duplicate_of is None else ("dropped", "near_duplicate"))
    return {row.face_id: row.duplicate_of for row in found}


def test_none_and_one():
    assert find_near_duplicates([], [], np.zeros((0, 4), np.float32), RULES) == []
    assert kept([face("a", "p")], [photo("p")], unit([1, 0])) == {"a": None}


def test_a_picture_saved_again_keeps_its_largest_face():
    faces = [face("a", "p", 40), face("b", "q", 80, (200.0, 200.0, 400.0, 400.0))]
    photos = [photo("p"), photo("q", "000000000000003f", (800, 600))]
    assert kept(faces, photos, unit([1, 0], [1, 0.1])) == {"a": "b", "b": None}
    assert kept(faces[::-1], photos[::-1], unit([1, 0.1], [1, 0])) == {"a": "b", "b": None}


def test_equal_size_keeps_the_smaller_id():
    assert kept([face("b", "p"), face("a", "q")], [photo("p"), photo("q")], unit([1, 0], [1, 0])) == {
        "a": None,
        "b": "a",
    }


@pytest.mark.parametrize(
    ("phash", "vector", "box", "said"),
    [
        ("000000000000003f", [1, 0.2], None, "a"),  # The hashes differ in 6 bits, so the face is a copy.
        ("000000000000007f", [1, 0.2], None, None),  # The hashes differ in 7 bits, so the face is in another picture.
        (ZERO, [0.34, 0.94], None, None),  # Another person is at the same place.
        (ZERO, [1, 0.2], (160.0, 100.0, 260.0, 200.0), None),  # The face is at another place in the picture.
        (ZERO, [1, 0.2], (120.0, 100.0, 220.0, 200.0), "a"),
    ],
)
def test_the_same_photo_rule_one_by_one(phash, vector, box, said):
    other = face("b", "q", 39, box or (100.0, 100.0, 200.0, 200.0))
    assert kept([face("a", "p"), other], [photo("p"), photo("q", phash)], unit([1, 0], vector))["b"] == said


@pytest.mark.parametrize(("bits", "vector", "said"), [(54, [1, 0.7], "a"), (55, [1, 0.7], None), (0, [1, 0.8], None)])
def test_a_recropped_picture_one_by_one(bits, vector, said):
    own = bytes(32).hex()
    moved = f"{(1 << bits) - 1:064x}"
    faces = [face("a", "p", phash=own), face("b", "q", 39, phash=moved)]
    assert kept(faces, [photo("p"), photo("q", "f" * 16)], unit([1, 0], vector))["b"] == said


def test_people_of_a_group_photo_saved_again_stay_apart_for_any_recognizer():
    # dlib's embeddings of strangers can have a cosine of .9, so only the places of the faces tell these people apart
    boxes = [(i * 100.0, 50.0, i * 100.0 + 80, 130.0) for i in range(4)]
    faces = [face(f"{of}{i}", of, 40 + (of == "q"), box) for of in "pq" for i, box in enumerate(boxes)]
    vectors = unit(*[[3, *(i == j for j in range(4))] for _ in "pq" for i in range(4)])
    found = kept(faces, [photo(f.photo_id) for f in faces], vectors)
    assert found == {f"p{i}": f"q{i}" for i in range(4)} | {f"q{i}": None for i in range(4)}


def test_two_faces_of_one_photo_are_never_copies():
    faces = [face("a", "p"), face("b", "p", 39)]
    assert kept(faces, [photo("p")] * 2, unit([1, 0], [1, 0])) == {"a": None, "b": None}


def test_what_was_a_copy_comes_back_when_its_rule_goes():
    was = replace(face("b", "q", 39), status="dropped", reason="near_duplicate", duplicate_of="a")
    assert kept([face("a", "p"), was], [photo("p"), photo("q", "f" * 16)], unit([1, 0], [1, 0])) == {
        "a": None,
        "b": None,
    }


def test_more_copies_than_neighbours_are_looked_at_still_leave_one():
    faces = [face(f"{i:03}", f"p{i:03}") for i in range(100)]
    vectors = unit(*np.random.default_rng(0).normal([5, 0, 0], 0.1, (100, 3)))
    found = kept(faces, [photo(f.photo_id) for f in faces], vectors)
    assert [name for name, of in found.items() if of is None] == ["000"]


def test_a_poor_copy_far_down_the_list_of_a_much_photographed_face_is_found_by_its_photo():
    rng = np.random.default_rng(3)
    faces = [face(f"{i:03}", f"p{i:03}") for i in range(60)] + [face("poor", "q", 39)]
    photos = [photo(f.photo_id, rng.bytes(8).hex()) for f in faces[:-1]]
    photos.append(photo("q", photos[0].phash))
    near = rng.normal([5, 0, 0], 0.01, (60, 3))
    near[0] = [5, 3, 0]  # of all faces, the original 000 is the least similar to its copy `poor`
    vectors = unit(*near, [5, -3, 0])
    assert (vectors[-1] @ vectors.T).argsort()[0] == 0
    assert kept(faces, photos, vectors) == {f.face_id: None for f in faces[:-1]} | {"poor": "000"}
    assert kept(faces, [*photos[:-1], photo("q", "f" * 16)], vectors)["poor"] is None


def test_copies_are_found_where_there_are_too_many_faces_to_compare_all(monkeypatch):
    monkeypatch.setattr(module, "find_neighbours", partial(module.find_neighbours, exact=500))
    rng = np.random.default_rng(5)
    people = unit(*rng.normal(size=(1000, 32)))
    hashes = [rng.bytes(32) for _ in people]
    # Each copy is cropped: the hash of its face differs in one bit, and the hash of its photo is another hash.
    again = [bytes([one[0] ^ 1, *one[1:]]).hex() for one in hashes]
    names = rng.permutation(2000)
    faces = [face(f"{name:04}", f"p{name}", 40, phash=one.hex()) for name, one in zip(names, hashes, strict=False)]
    faces += [face(f"{name:04}", f"p{name}", 39, phash=one) for name, one in zip(names[1000:], again, strict=True)]
    photos = [photo(one.photo_id, rng.bytes(8).hex()) for one in faces]
    vectors = np.concatenate([people, unit(*(people + rng.normal(scale=0.02, size=people.shape)))])
    found = kept(faces, photos, vectors)
    assert found == {one.face_id: None for one in faces[:1000]} | {
        copy.face_id: one.face_id for one, copy in zip(faces, faces[1000:], strict=False)
    }
    back = slice(None, None, -1)
    assert kept(faces[back], photos[back], vectors[back]) == found


def picture(seed: int) -> np.ndarray:
    """Returns a smooth random picture, uint8 (256, 256, 3)."""
    rng = np.random.default_rng(seed)
    gray = sum(cv2.resize(rng.normal(size=(n, n)), (256, 256), interpolation=cv2.INTER_CUBIC) for n in (4, 8, 14))
    return np.repeat((128 + 40 * gray).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def test_faces_with_the_same_pixels_are_copies_also_moved_mirrored_or_cut_by_the_border():
    valid, cut = np.ones((128, 128), bool), np.arange(128) < 95 + np.zeros((128, 1))
    shift = cv2.warpAffine(picture(1), np.float32([[1.03, 0, 2], [0, 1.03, -4]]), (256, 256))
    half = np.where(np.arange(256)[None, :, None] < 190, picture(1), 130).astype(np.uint8)
    lumas = {
        "a": encode_luma(picture(1), valid),
        "moved": encode_luma(shift, valid),
        "mirrored": encode_luma(np.ascontiguousarray(picture(1)[:, ::-1]), valid),
        "half": encode_luma(half, cut),
        "other": encode_luma(picture(2), valid),
        "unknown": None,
    }
    # The hash of each face differs from the hash of face a in 60 bits. This is too many for the rule about hashes.
    rng = np.random.default_rng(0)
    hashes = np.zeros((len(lumas), 256), np.uint8) + rng.integers(0, 2, 256, np.uint8)
    for row in hashes[1:]:
        row[rng.permutation(256)[:60]] ^= 1
    hashes = np.packbits(hashes, axis=1)
    hashes[2] = turn_hashes(hashes[2:3], MIRRORED)
    faces = [
        replace(face(name, name, 40 - i, phash=hashes[i].tobytes().hex()), luma_dct=luma)
        for i, (name, luma) in enumerate(lumas.items())
    ]
    photos = [photo(name, rng.bytes(8).hex()) for name in lumas]
    vectors = unit(*rng.normal([4, 0, 0, 0, 0], 0.8, (6, 5)))
    assert kept(faces, photos, vectors) == {
        "a": None, "moved": "a", "mirrored": "a", "half": "a", "other": None, "unknown": None,
    }  # fmt: skip


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_face_beside_a_copy_is_a_copy_if_it_is_at_the_same_place(mirrored):
    points = np.array([[120, 130], [160, 132], [142, 155], [125, 175], [158, 176]], float)
    box, beside, elsewhere = (100.0, 100.0, 180.0, 190.0), (220.0, 90.0, 300.0, 190.0), (10.0, 90.0, 90.0, 190.0)

    def enlarge(box):
        x0, y0, x1, y1 = box
        x0, x1 = (400 - x1, 400 - x0) if mirrored else (x0, x1)
        return tuple(2 * edge for edge in (x0, y0, x1, y1))

    moved = points * [-1, 1] + [400, 0] if mirrored else points
    own = [replace(face("a", "p", 90, box), landmarks5=tuple(points.ravel())), face("b", "p", 90, beside)]
    order = [1, 0, 2, 4, 3] if mirrored else [0, 1, 2, 3, 4]
    again = [
        replace(face("x", "q", 40, enlarge(box)), landmarks5=tuple(2 * moved[order].ravel())),
        face("y", "q", 40, enlarge(beside)),
        face("z", "q", 40, enlarge(elsewhere)),
    ]
    again[0] = replace(again[0], phash=own[0].phash)
    sizes = [photo("p", "f" * 16, (400, 300))] * 2 + [photo("q", "0" * 16, (1000, 900))] * 3
    vectors = unit([1, 0, 0], [0, 1, 0], [1, 0.1, 0], [0, 1, 1], [0, 1, 0.5])
    assert kept([*own, *again], sizes, vectors) == {"a": None, "b": None, "x": "a", "y": "b", "z": None}


def copy(name: str, of: str, stands: str) -> Face:
    return replace(face(name, of), status="dropped", reason="near_duplicate", duplicate_of=stands)


def test_photos_that_hold_copies_are_linked_however_long_the_chain():
    faces = [
        face("a", "z"),
        face("b", "y"),
        copy("c", "y", "a"),
        copy("d", "x", "b"),
        face("e", "w"),
        copy("f", "v", "?"),
    ]
    found = {"z": "x", "y": "x", "x": "x", "w": "w", "v": "v"}
    assert find_linked_photos(faces) == find_linked_photos(faces[::-1]) == found and find_linked_photos([]) == {}
    photos = {name: photo(name) for name in found}
    assert (
        find_pictures(faces, photos, 6) == find_pictures(faces[::-1], photos, 6) == found
        and find_pictures([], {}, 6) == {}
    )


def test_a_collage_does_not_make_one_picture_of_the_photos_it_holds():
    faces = [face("a", "p"), face("b", "q"), face("c", "r"), *(copy(f"x{i}", "x", "abc"[i]) for i in range(3))]
    again = copy("d", "s", "a")  # another copy of the photo of face a, which shows the whole photo
    photos = {name: photo(name, phash * 16) for name, phash in zip("pqrxs", "035f0", strict=True)}
    assert find_pictures([*faces, again], photos, 6) == {"p": "p", "s": "p", "q": "q", "r": "r", "x": "x"}
    assert set(find_linked_photos([*faces, again]).values()) == {"p"}


def test_a_strip_never_stands_for_the_single_photos_that_it_shows():
    frames = [str(i) * 64 for i in range(3)]
    singles = [face(f"s{i}", f"p{i}", 30, phash=frames[i]) for i in range(3)]
    strip = [face(f"a{i}", "strip", 60, (0.0, 90.0 * i, 80.0, 90.0 * i + 80), frames[i]) for i in range(3)]
    photos = [*(photo(f"p{i}", "05af"[i] * 16) for i in range(3)), *[photo("strip", "3" * 16)] * 3]
    one_person = unit([1, 0, 0, 0], [1, 0.6, 0, 0], [1, 0, 0.6, 0])
    found = kept([*singles, *strip], photos, np.concatenate([one_person] * 2))
    assert found == {"s0": None, "s1": None, "s2": None, "a0": "s0", "a1": "s1", "a2": "s2"}
    # If the strip shows three people, it counts as a group photo. Its faces represent the single faces, because its
    # faces are larger.
    three_people = np.eye(4, dtype=np.float32)[:3]
    found = kept([*singles, *strip], photos, np.concatenate([three_people] * 2))
    assert found == {"s0": "a0", "s1": "a1", "s2": "a2", "a0": None, "a1": None, "a2": None}


def test_one_frame_eight_times_in_a_strip_is_one_face():
    strip = [face(f"a{i}", "strip", 60 + i, (0.0, 90.0 * i, 80.0, 90.0 * i + 80), "5" * 64) for i in range(8)]
    other = face("b", "strip", 60, (100.0, 0.0, 180.0, 80.0), "c" * 64)
    found = kept([*strip, other], [photo("strip")] * 9, unit(*[[1, 0]] * 9))
    assert found == {**{f"a{i}": "a7" for i in range(7)}, "a7": None, "b": None}
