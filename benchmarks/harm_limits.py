"""Calibrates the table of limits in train/restore/decisions/harm.py on people whose true faces are known.

    python benchmarks/harm_limits.py DATASET --run RUN [--judge dlib] [--split val] [--presets clean,mild,codeformer]

The benchmark degrades the faces of the split with each preset, and restores each face with four references and without
references. The judge measures the cosine of an image to the true face. A result counts as better if its cosine is at
least the cosine of the degraded input, and otherwise as worse. The benchmark prints for each measure:

- the current limit of the table,
- the limit that 95% of the better results pass,
- the share of the better results that pass the limit of the table,
- the share of the worse results that the limit of the table stops.

For an ideal measure, the last share would be 1. The line `all limits` has the share of the better results that pass all
limits, and the share of the worse results that at least one limit stops. The fineness of a face tells how strong its
finest detail is. The benchmark also proposes a limit of the fineness: 95% of the results of soft inputs have less
fineness than this limit. If an input has more fineness than this limit, the restorer would make the face softer. The
benchmark changes no limit. Write the limits that you choose into train/restore/decisions/harm.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from load_judge import load_judge
from record_result import record_result
from reference_benefit import run_likeness

REFERENCES = 4
SHARE = 0.95  # The share (ours) of the better results that pass a proposed limit.
# Maps a measure of harm.py to the name of its limit in the table. The measure `identity_gain` is the mean cosine to the
# references after the restoration, minus the mean cosine before. The measure `identity_to_input` is (cosine to the
# input - `same_person`) / (1 - `same_person`), and is only measured without references.
MEASURES = {
    "sharpness_ratio": "min_sharpness_ratio",
    "agreement": "min_agreement",
    "identity_gain": "max_identity_loss",
    "identity_to_input": "min_identity_to_input",
}

Row = Mapping[str, float | str | bool | None]


def measure_faces(
    dataset: Path, run: Path, lq_set: str, presets: Sequence[str], judge_spec: str, most: int | None
) -> list[Row]:
    """Degrades the faces of a frozen set with each preset, restores the faces, and returns a row for each result."""
    from degrade.operations.apply import apply
    from degrade.operations.pixels import to_float, to_uint8
    from train.data.face_measures import InputFace, describe_crop, measure_fineness
    from train.data.sampling import draw_theta
    from train.evaluation.sets.cases import read_frozen_set
    from train.evaluation.sets.embedder import make_embedder
    from train.evaluation.systems.system import System, select_references
    from train.recipes.training_presets import find_training_preset
    from train.restore.decisions.harm import measure_harm
    from train.restore.pasting.paste import round_to_levels
    from train.restore.restorers.face_restorer import load_restorer_faces
    from train.restore.restorers.load_restorer import load_restorer, move_to_device, restore_crop

    model = move_to_device(load_restorer(run))
    models = load_restorer_faces(model.facts, None)
    embed, judge = make_embedder(models), make_embedder(load_judge(judge_spec, model))
    cases = read_frozen_set(dataset, model.config.size, lq_set, REFERENCES, 0).cases
    rows: list[Row] = []
    for number, case in enumerate(cases[:most]):
        true = judge([case.target])[0]
        for preset in presets:
            theta = draw_theta(find_training_preset(preset, {}), 0, 0, case.face_id)
            lq = to_uint8(apply(to_float(case.target), theta))
            face: InputFace = describe_crop(lq, lq)
            for count in (0, REFERENCES):
                references = select_references(case, System(str(count), "", count), embed)
                assert references is not None
                result = round_to_levels(restore_crop(model, lq, references))
                before, after = embed([lq, result])
                measures = measure_harm(face, result, (before, after), references.embeddings)
                gain = float(np.diff(judge([lq, result]) @ true)[0])
                share = (measures.identity_after - models.same_person) / (1 - models.same_person)
                known = measures.identity_before
                rows.append(
                    {
                        "preset": preset,
                        "references": count,
                        "better": gain >= 0,
                        "fineness_of_result": measure_fineness(describe_crop(result, result)),
                        **asdict(measures),
                        "identity_gain": None if known is None else measures.identity_after - known,
                        "identity_to_input": share if known is None else None,
                    }
                )
        print(f"{number + 1} of {len(cases[:most])} faces", file=sys.stderr)
    return rows


def summarise(rows: Sequence[Row], limits: Mapping[str, float]) -> dict[str, Any]:
    """Returns for each measure the current limit, the proposed limit, and two shares.

    `better_pass` is the share of the better results that pass the current limit. `worse_stopped` is the share of the
    worse results that the current limit stops.
    """
    table: dict[str, Any] = {}
    harmless = np.ones(len(rows), bool)
    better = np.array([bool(row["better"]) for row in rows])
    for measure, name in MEASURES.items():
        values = np.array([np.nan if row[measure] is None else row[measure] for row in rows], float)
        known, sign = np.isfinite(values), -1 if name.startswith("max") else 1
        passes = values >= sign * limits[name]
        harmless &= passes | ~known
        chosen = values[known & better]
        table[measure] = {
            "limit": limits[name],
            "proposed": round(sign * float(np.quantile(chosen, 1 - SHARE)), 3) if len(chosen) else None,
            "better_pass": _share(passes, known & better),
            "worse_stopped": _share(~passes, known & ~better),
        }
    table["all limits"] = {"better_pass": _share(harmless, better), "worse_stopped": _share(~harmless, ~better)}
    # Sharp inputs are left out, because their results may be sharp only because the input was sharp.
    soft = [row for row in rows if float(row["fineness"] or 0) < limits["max_fineness"]]
    fineness = [float(row["fineness_of_result"] or 0) for row in soft]
    table["fineness"] = {
        "limit": limits["max_fineness"],
        "proposed": round(float(np.quantile(fineness, SHARE)), 3) if fineness else None,
    }
    return table


def format_table(table: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the table as text."""
    columns = ("limit", "proposed", "better_pass", "worse_stopped")
    lines = [f"{'measure':18}" + "".join(f"{column:>15}" for column in columns)]
    for measure, values in table.items():
        cells = ("" if values.get(column) is None else f"{values[column]:g}" for column in columns)
        lines.append(f"{measure:18}" + "".join(f"{cell:>15}" for cell in cells))
    return "\n".join(lines)


def _share(condition: np.ndarray, among: np.ndarray) -> float | None:
    return round(float(condition[among].mean()), 3) if among.any() else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="the dataset's folder")
    parser.add_argument("--run", type=Path, help="the run of the restorer (default: DATASET/run)")
    parser.add_argument("--judge", default="dlib", help="a recognizer that no loss uses: dlib or an .onnx file")
    parser.add_argument("--split", choices=("val", "train"), default="val", help="the split whose people are restored")
    parser.add_argument("--presets", default="clean,mild,codeformer,severe", help="degradations, separated by commas")
    parser.add_argument("--limit", type=int, help="the number of faces to measure (default: all)")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/harm_limits.json")
    options = parser.parse_args()
    run = options.run or options.dataset / "run"

    from train.restore.decisions.harm import LIMITS
    from train.restore.restorers.load_restorer import load_restorer

    size = load_restorer(run).config.size
    lq_set = f"codeformer-{options.split}-{size}-s0"
    run_likeness(
        "degrade", options.dataset, "--preset", "codeformer", "--split", options.split, "--size", size, "--seed", 0
    )
    rows = measure_faces(options.dataset, run, lq_set, options.presets.split(","), options.judge, options.limit)
    table = summarise(rows, asdict(LIMITS))
    print(format_table(table), file=sys.stderr)
    better = round(float(np.mean([bool(row["better"]) for row in rows])), 3)
    facts = {"results": len(rows), "better": better, "judge": options.judge, "presets": options.presets}
    record_result("harm_limits", {**facts, "table": table}, options.keep)


if __name__ == "__main__":
    main()
