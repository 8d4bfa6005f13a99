"""Measures how much a restorer changes faces that need no restoration.

    python benchmarks/clean_faces.py DATASET --run RUN [--judge dlib] [--keep]

The benchmark restores faces of people of the splits `val` and `test`, on whom the restorer was not trained. The
benchmark uses a face only if two conditions hold: its crop was not enlarged, and at most a tenth of the crop lies
outside the photo. The input is the crop itself, as in `likeness restore --always`. Each face is restored without
references. If the table `pairs` of the dataset has references for a face, the face is also restored with up to four
references. The benchmark prints the PSNR between the result and the input, over the pixels that come from the photo.
The benchmark also prints the cosine between the embeddings of the result and of the input. The judge, a recognizer that
no loss uses, computes these embeddings."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from load_judge import load_judge
from record_result import record_result

SPLITS = ("val", "test")
# The largest share of a crop that may lie outside the photo; the filter outside_photo has the same limit.
MOST_OUTSIDE = 0.1
# Our goals for a restorer that does no harm. The mean PSNR (in dB) and the mean cosine must be at least this high. A
# result must have at least this many faces and people.
GOALS = {"psnr": 38.0, "identity": 0.98, "faces": 40, "people": 8}


def list_clean_faces(dataset: Path, size: int) -> list[tuple[str, str, np.ndarray]]:
    """Returns the clean faces of the splits `val` and `test`, each as (face id, person, mask).

    The mask, bool (size, size), is True for the pixels of the crop that come from the photo.
    """
    from curate.faces.align import find_valid_pixels
    from manifests.ledger.ledger import Ledger

    with Ledger.open(dataset) as ledger:
        rows = ledger.query(
            """SELECT face_id, s.identity_id, f.landmarks5, p.width, p.height
               FROM faces f JOIN splits s USING (face_id) JOIN photos p USING (photo_id)
               WHERE f.status = 'ok' AND s.status = 'ok' AND f.duplicate_of IS NULL AND list_contains(?, s.split)
               AND f.upsample * ? / 512 <= 1 AND f.outside <= ? ORDER BY face_id""",
            list(SPLITS),
            size,
            MOST_OUTSIDE,
        )
        return [
            (face_id, person, find_valid_pixels(np.array(landmarks5).reshape(5, 2), width, height, size))
            for face_id, person, landmarks5, width, height in rows.iter_rows()
        ]


def measure_faces(dataset: Path, run: Path, judge_spec: str) -> list[dict[str, Any]]:
    """Restores the clean faces of a dataset. Returns one row for each restored image."""
    import torch

    from train.data.take_snapshot import take_snapshot
    from train.data.taking.crops import read_crop
    from train.data.tensors import to_tensor
    from train.evaluation.sets.embedder import make_embedder
    from train.iterate.clean import take_references
    from train.metrics.psnr_ssim import psnr
    from train.restore.pasting.paste import round_to_levels
    from train.restore.references.reference_photos import join_references
    from train.restore.restorers.load_restorer import load_restorer, move_to_device, restore_crop

    model = move_to_device(load_restorer(run))
    size, embed = model.config.size, make_embedder(load_judge(judge_spec, model))
    nobody = join_references((), size, model.config.embedding_dim)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        snapshot = take_snapshot(dataset, Path(folder) / "snapshot", size)
        number = {face_id: row for row, face_id in enumerate(snapshot.face_ids)}
        for face_id, person, valid in list_clean_faces(dataset, size):
            crop, every = read_crop(dataset, face_id, size), [nobody]
            if face_id in number and len(snapshot.references[number[face_id]]):
                every.append(take_references(snapshot, number[face_id], model))
            for references in every:
                result = round_to_levels(restore_crop(model, crop, references))
                before, after = embed([crop, result])
                (decibels,) = psnr(to_tensor(result)[None], to_tensor(crop)[None], torch.from_numpy(valid)[None, None])
                rows.append(
                    {
                        "person": person,
                        "references": len(references.crops),
                        "psnr": decibels,
                        "identity": float(before @ after),
                    }
                )
    return rows


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns one row for the faces restored without references, and one row for the faces restored with references.

    A row has the means and the lowest values of PSNR and identity, the number of faces and the number of people.
    """
    table: dict[str, Any] = {}
    for name, chosen in (
        ("without references", [row for row in rows if not row["references"]]),
        ("with references", [row for row in rows if row["references"]]),
    ):
        if not chosen:
            continue
        table[name] = {"faces": len(chosen), "people": len({row["person"] for row in chosen})}
        for key in ("psnr", "identity"):
            values = np.array([row[key] for row in chosen])
            table[name] |= {key: round(float(values.mean()), 4), f"{key}_lowest": round(float(values.min()), 4)}
        table[name]["goals_reached"] = all(table[name][key] >= goal for key, goal in GOALS.items())
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="the dataset's folder")
    parser.add_argument("--run", type=Path, help="the run of the restorer (default: DATASET/run)")
    parser.add_argument("--judge", default="dlib", help="a recognizer that no loss uses: dlib or an .onnx file")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/clean_faces.json")
    options = parser.parse_args()
    run = options.run or options.dataset / "run"

    rows = measure_faces(options.dataset, run, options.judge)
    if not rows:
        sys.exit(
            f"In the splits {' and '.join(SPLITS)} of {options.dataset}, every crop is enlarged or lies partly outside "
            "its photo: curate larger photos."
        )
    table = summarise(rows)
    for name, values in table.items():
        print(f"{name:20}" + "".join(f"  {key} {value}" for key, value in values.items()), file=sys.stderr)
    record_result("clean_faces", {**table, "goals": GOALS, "judge": options.judge}, options.keep)


if __name__ == "__main__":
    main()
