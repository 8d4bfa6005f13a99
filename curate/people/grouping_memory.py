"""Chooses whether the large arrays of a grouping lie in memory or in temporary files, and reads the embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from manifests.errors import BadInput
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face
from manifests.runtime.workspace import Workspace, measure_machine, measure_process

# Without --memory, a grouping uses at most this share (ours) of the memory of the machine.
_SHARE = 0.75
# In memory, the grouping has at most four arrays with a row of float32 for each face: the embeddings, the sums of the
# groups, the sums of the strong groups, and the sums of the people. The other arrays take _OTHER_BYTES for each face
# (docs/scale.md).
_ARRAYS, _OTHER_BYTES = 4, 1300
# With temporary files, the grouping needs _BYTES_A_FACE for each face and _LEAST_BYTES for its blocks (docs/scale.md).
_BYTES_A_FACE, _LEAST_BYTES = 900, 2**30


def read_embeddings(
    ledger: Ledger, faces: Sequence[Face], memory: int | None
) -> tuple[list[str], np.ndarray, Workspace]:
    """Returns the ids of the faces with the status ok, their embeddings, float32 (n, d), and a workspace.

    The process may use `memory` bytes while it groups the faces. Temporary files are in the folder of the dataset.

    Raises BadInput if `memory` is too small for the faces. Raises LedgerBroken if an embedding is missing.
    """
    usable = [face for face in faces if face.status == "ok"]
    known = next((face for face in usable if face.shard is not None and face.shard_row is not None), None)
    dimensions = 0
    if known is not None:
        dimensions = ledger.read_vectors([str(known.shard)], np.array([known.shard_row])).shape[1]
    workspace = choose_workspace(ledger.dataset, len(usable), dimensions, memory)
    ids, vectors = ledger.read_embeddings([face.face_id for face in usable], workspace)
    return ids, vectors, workspace


def choose_workspace(folder: Path, faces: int, dimensions: int, memory: int | None) -> Workspace:
    """Returns a workspace for the grouping of `faces` faces with embeddings of `dimensions` numbers.

    Temporary files are in `folder`. Raises BadInput if `memory` is less than the grouping needs.
    """
    now = measure_process()
    limit = int(_SHARE * measure_machine()) if memory is None else memory
    if now + faces * (_ARRAYS * 4 * dimensions + _OTHER_BYTES) <= limit:
        return Workspace()
    least = now + faces * _BYTES_A_FACE + _LEAST_BYTES
    if memory is not None and memory < least:
        raise BadInput(
            f"--memory {memory / 2**30:.2g}G is too small to group {faces:,} faces. Give at least "
            f"{np.ceil(least / 2**30 * 10) / 10:.1f}G."
        )
    return Workspace(max(limit, least), folder)
