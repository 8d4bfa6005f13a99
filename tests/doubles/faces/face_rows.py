"""Makes rows of faces without any photo."""

import numpy as np

from manifests.ledger.records import Face


def face(name: str, of: str, eyes: float = 40.0, box=(100.0, 100.0, 200.0, 200.0), phash: str = "") -> Face:
    phash = phash or np.random.default_rng(list(name.encode())).bytes(32).hex()
    return Face(name, of, box, (0.0,) * 10, None, 0.9, eyes, 0.0, 0.0, 0.0, 0.5, 1.0, 0.5, 3.0, phash)
