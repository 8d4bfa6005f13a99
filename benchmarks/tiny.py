"""The main job on a folder of real faces: `python benchmarks/tiny.py PHOTOS --into DATASET --faces SPEC`.

Runs `likeness run`, which resumes: on a finished dataset this is the evaluation alone, by the dataset's own recognizer
and by dlib, which is in no loss. Training on 25,600 images takes half an hour on 2 idle cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from record import finish


def likeness(*words: object) -> dict[str, Any]:
    """The JSON that a command prints; its progress and its errors go where ours go."""
    command = [sys.executable, "-m", "likeness", *map(str, words), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--into", type=Path, required=True, help="the dataset's folder")
    parser.add_argument("--faces", default="auto", help="as for `likeness curate`")
    parser.add_argument("--images", type=int, help="images seen in training; default: the recipe's")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/tiny.json")
    told = parser.parse_args()
    length = () if told.images is None else ("--images", told.images)
    done = likeness("run", *told.photos, "--into", told.into, "--faces", told.faces, *length)
    own, judged = done["own"], done["judged"]
    rows = []
    for row, other in zip(own["rows"], judged["rows"], strict=True):
        line: dict[str, Any] = {"system": row["system"]}
        for name, interval in (
            ("psnr", row["psnr"]),
            ("ssim", row["ssim"]),
            ("id_target", row["id_target"]),
            ("id_target_judge", other["id_target"]),
            ("id_references_judge", other["id_references"]),
        ):
            line[name] = [round(interval[key], 4) for key in ("mean", "low", "high")]
        rows.append(line)
    stats = [json.loads(line) for line in (told.into / "run" / "stats.jsonl").read_text().splitlines()]
    pace = sorted(line["images_per_second"] for line in stats if line["kind"] == "train")
    keys = ("lq_set", "images", "people", "references", "images_seen", "interval")
    finish(
        "tiny",
        {
            **{key: own[key] for key in keys},
            "judge": judged["judge"]["spec"],
            "training_images_per_second_median": round(pace[len(pace) // 2], 1),
            "rows": rows,
        },
        told.keep,
    )


if __name__ == "__main__":
    main()
