"""Keeps restored images in the cache of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from curate.faces.interface import FaceModels
from manifests.pictures.png_files import decode_own_png, encode_png_quickly
from train.evaluation.cache.cache_file import EvaluationCache
from train.evaluation.cache.keys import ArrayHashes, hash_faces, hash_files, hash_inputs
from train.evaluation.cache.stored_restorer import StoredRestorer
from train.evaluation.sets.cases import Case
from train.evaluation.systems.restore_case import RestoreCases, RestoredCase, restore_case
from train.evaluation.systems.system import System, choose_photos
from train.metrics.measure import find_weights
from train.restore.batches.face_batches import FaceBatches
from train.restore.batches.photo_pipeline import run_steps


def make_cached_restorer(
    model: StoredRestorer,
    recognizer: FaceModels,
    cache: EvaluationCache,
    load_batches: Callable[[], FaceBatches],
) -> RestoreCases:
    """Returns a function that restores cases for systems in batches, and reads images that are in `cache`.

    The scope of `cache` must contain the hash of the restorer. Equal images are stored once, for example the images of
    two systems without references. `load_batches` returns batches that restore with `model`. `load_batches` is called
    only if an image is not in `cache`.
    """
    # ReFine's mesh uses dlib's landmarks. The file of these landmarks is not among the files of the recognizer.
    landmarks = hash_files(find_weights("lmd", None)) if "mesh" in model.config.parts else None
    hashes = ArrayHashes()
    always = (hash_faces(recognizer), landmarks, f"{model.steps} {model.seed}")

    def make_key(case: Case, system: System) -> str | None:
        if not system.restores or (photos := choose_photos(case, system)) is None:
            return None
        crops, embeddings = photos
        pictures = map(hashes.find, (case.lq, *crops))
        return hash_inputs("restored", *always, system.change, str(system.trust), embeddings, *pictures)

    def restore(cases: Sequence[Case], systems: Sequence[System]) -> dict[tuple[str, str], RestoredCase]:
        keys = {(case.face_id, system.key): make_key(case, system) for case in cases for system in systems}
        known: dict[str | None, RestoredCase] = {}
        missing: list[tuple[Case, dict[str, System]]] = []  # for each case, the keys that are not in the cache
        for case in cases:
            unknown: dict[str, System] = {}
            for system in systems:
                key = keys[case.face_id, system.key]
                if key is None or key in known:
                    continue
                if (entry := _read(cache, key)) is not None:
                    known[key] = entry
                else:
                    unknown.setdefault(key, system)
            if unknown:
                missing.append((case, unknown))
        if not missing:
            return {place: known[key] for place, key in keys.items() if key is not None}
        batches = load_batches()
        steps = [restore_case(case, list(own.values()), batches.restorer, recognizer) for case, own in missing]
        for (_, own), restored in zip(missing, run_steps(steps, batches), strict=True):
            for key, one in zip(own, restored, strict=True):
                _write(cache, key, one)
                known[key] = one
        return {place: known[key] for place, key in keys.items() if key is not None}

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
        cache.put(image_key, encode_png_quickly(restored.image))
    fields = {"references": restored.references, "left_out": restored.left_out, "image": image_key}
    cache.put(key, json.dumps(fields).encode())
