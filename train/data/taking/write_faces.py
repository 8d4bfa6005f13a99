"""Writes the files of a snapshot that have a row for each face. Only a few rows are in memory at a time."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.runtime.array_file import ArrayFile
from manifests.runtime.snapshot_files import CROPS, EMBEDDINGS, FACES, LANDMARKS, LARGE_CROPS, VALID, read_faces
from train.data.snapshot import FACE_COLUMNS, LARGE_SIZE
from train.data.taking.choose_faces import stream_faces
from train.data.taking.crops import read_cleaned_crop, read_crop

if TYPE_CHECKING:
    from manifests.ledger.ledger import Ledger
    from manifests.ledger.records import CleanedVersion

_CHOSEN = "chosen.arrow"  # the rows of `stream_faces`; a finished snapshot does not contain this file


def write_chosen_faces(folder: Path, ledger: Ledger) -> None:
    """Writes the chosen faces and their embeddings into `folder`. Raises LedgerBroken if an embedding is missing."""
    with ExitStack() as stack:
        file = stack.enter_context((folder / _CHOSEN).open("wb"))
        writer: pa.RecordBatchFileWriter | None = None
        embeddings: ArrayFile | None = None
        for batch in stream_faces(ledger):
            vectors = ledger.read_vectors(batch["shard"].to_pylist(), batch["shard_row"].to_numpy())
            if writer is None or embeddings is None:
                writer = stack.enter_context(pa.ipc.new_file(file, batch.schema))
                embeddings = stack.enter_context(ArrayFile(folder / EMBEDDINGS, np.float32, vectors.shape[1:]))
            writer.write_batch(batch)
            embeddings.append(vectors)


def write_faces(
    folder: Path, dataset: Path, people: list[str], size: int, versions: Mapping[str, CleanedVersion]
) -> None:
    """Writes the crops, masks and landmarks of the chosen faces, and the table of faces, into `folder`.

    `people` are the identity ids of the chosen faces, sorted. `versions` maps face ids to cleaned versions. Raises
    LedgerBroken if a crop is missing or broken.
    """
    from curate.faces.align import find_valid_pixels
    from train.data.face_measures import describe_crop, estimate_resolution
    from train.data.landmarks import map_to_crop

    table = read_faces(folder / _CHOSEN)
    splits = pa.array(sorted(table["split"].unique().to_pylist()), pa.string())
    identity_ids = pa.array(people, pa.string())
    with ExitStack() as stack:
        crops = stack.enter_context(ArrayFile(folder / CROPS, np.uint8, (size, size, 3)))
        large = stack.enter_context(ArrayFile(folder / LARGE_CROPS, np.uint8, (LARGE_SIZE, LARGE_SIZE, 3)))
        valid = stack.enter_context(ArrayFile(folder / VALID, np.uint8, (-(-size * size // 8),)))
        landmarks = stack.enter_context(ArrayFile(folder / LANDMARKS, np.float32, (5, 2)))
        writer = stack.enter_context(pa.ipc.new_file(stack.enter_context((folder / FACES).open("wb")), FACE_COLUMNS))
        for batch in table.to_batches():
            # Write the crops, masks and landmarks, and measure the resolution of the training targets.
            resolutions, large_rows, rounds = list[int](), list[int](), list[int | None]()
            names = ("face_id", "split", "is_target", "upsample", "width", "height")
            photo_landmarks = batch["landmarks5"].flatten().to_numpy().astype(np.float64).reshape(-1, 5, 2)
            for face_id, split, is_target, upsample, width, height, points in zip(
                *(batch[name].to_pylist() for name in names), photo_landmarks, strict=True
            ):
                version, trains = versions.get(face_id), is_target and split == "train"
                crop = (
                    read_crop(dataset, face_id, size) if version is None else read_cleaned_crop(dataset, version, size)
                )
                crops.append(crop[None])
                valid.append(np.packbits(find_valid_pixels(points, width, height, size))[None])
                landmarks.append(map_to_crop(points, size).astype(np.float32)[None])
                resolutions.append(estimate_resolution(describe_crop(crop, crop)) if trains else 0)
                # If the photo has enough pixels, training degrades the face at 512 px and then shrinks it. A real photo
                # also loses its quality before its face is shrunk.
                is_large = trains and version is None and upsample * size < LARGE_SIZE
                large_rows.append(large.rows if is_large else -1)
                if is_large:
                    large.append(read_crop(dataset, face_id, LARGE_SIZE)[None])
                rounds.append(None if version is None else version.round)

            # Write the rows of the table.
            codes = pc.index_in(batch["split"], value_set=splits).cast(pa.int8())
            columns = {
                "face_id": batch["face_id"],
                "identity_id": pa.DictionaryArray.from_arrays(batch["person"], identity_ids),
                "split": pa.DictionaryArray.from_arrays(codes, splits),
                "is_target": batch["is_target"],
                "references": batch["refs"].cast(pa.list_(pa.int32())),
                "upsample": batch["upsample"],
                "large_row": pa.array(large_rows, pa.int32()),
                "resolution": pa.array(resolutions, pa.int32()),
                "version": pa.array(rounds, pa.int32()),
            }
            writer.write_batch(pa.record_batch([columns[name] for name in FACE_COLUMNS.names], schema=FACE_COLUMNS))
    (folder / _CHOSEN).unlink()
