"""Keeps the embeddings of crops in the cache of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from curate.faces.interface import FaceModels
from train.evaluation.cache.cache_file import EvaluationCache
from train.evaluation.cache.keys import hash_faces, hash_inputs
from train.evaluation.sets.embedder import Embed, make_embedder


def make_cached_embedder(recognizer: FaceModels, cache: EvaluationCache) -> Embed:
    """Returns a function like that of `make_embedder`, which computes only the embeddings that `cache` does not have.

    The function adds the computed embeddings to `cache`.
    """
    compute, recognizer_hash = make_embedder(recognizer), hash_faces(recognizer)

    def embed(crops: Sequence[np.ndarray]) -> np.ndarray:
        vectors = []
        for crop in crops:
            key = hash_inputs("embedding", recognizer_hash, crop)
            entry = cache.get(key)
            if entry is None:
                entry = np.asarray(compute([crop])[0], np.float32).tobytes()
                cache.put(key, entry)
            vectors.append(np.frombuffer(entry, np.float32))
        return np.stack(vectors)

    return embed
