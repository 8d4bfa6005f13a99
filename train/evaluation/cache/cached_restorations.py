"""Keeps restored images in the cache of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable

from curate.faces.interface import FaceModels
from manifests.pictures.png_files import CROP_PNG, decode_own_png, encode_png
from train.evaluation.cache.cache_file import EvaluationCache
from train.evaluation.cache.keys import hash_faces, hash_files, hash_inputs
from train.evaluation.cases import Case
from train.evaluation.restore_case import RestoredCase, make_case_restorer
from train.evaluation.systems import System, choose_photos
from train.metrics.measure import find_weights
from train.models.restorer import Restorer


def make_cached_restorer(
    model: Restorer, recognizer: FaceModels, cache: EvaluationCache
) -> Callable[[Case, System], RestoredCase]:
    """Returns a function that restores a case under a system, and reads images that are in `cache`.

    The scope of `cache` must contain the hash of the restorer. Equal images are stored once, for example the images of
    two systems without references.
    """
    # ReFine's mesh uses dlib's landmarks. The file of these landmarks is not among the files of the recognizer.
    landmarks = hash_files(find_weights("lmd", None)) if "mesh" in model.config.parts else None
    always = (hash_faces(recognizer), landmarks, f"{model.steps} {model.seed}")
    last: tuple[Case, Callable[[System], RestoredCase]] | None = None

    def restore(case: Case, system: System) -> RestoredCase:
        nonlocal last
        photos = choose_photos(case, system)
        assert photos is not None
        crops, embeddings = photos
        key = hash_inputs("restored", *always, case.lq, system.change, str(system.trust), embeddings, *crops)
        if (known := _read(cache, key)) is not None:
            return known
        if last is None or last[0] is not case:
            last = (case, make_case_restorer(case, model, recognizer))
        restored = last[1](system)
        _write(cache, key, restored)
        return restored

    return restore


def _read(cache: EvaluationCache, key: str) -> RestoredCase | None:
    entry = cache.get(key)
    if entry is None:
        return None
    fields = json.loads(entry)
    image = None
    if fields["image"] is not None:
        image = decode_own_png(cache.get(fields["image"]) or b"")
        if image is None:  # another evaluation with another checkpoint has removed the image
            return None
    return RestoredCase(fields["references"], fields["left_out"], image)


def _write(cache: EvaluationCache, key: str, restored: RestoredCase) -> None:
    image_key = None if restored.image is None else hash_inputs("image", restored.image)
    if restored.image is not None and image_key is not None and cache.get(image_key) is None:
        cache.put(image_key, encode_png(restored.image, CROP_PNG))
    fields = {"references": restored.references, "left_out": restored.left_out, "image": image_key}
    cache.put(key, json.dumps(fields).encode())
