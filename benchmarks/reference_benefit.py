"""Do references help, and does it matter whose they are? Trained on some people of a folder, measured on others.

    python benchmarks/reference_benefit.py PHOTOS --into DATASET --faces SPEC --judge dlib [--plot FILE.svg] [--keep]

Curates with the folder names as labels, degrades, trains recipe `tiny` and measures: 0, 1, 2 and 4 references, 4 of
another person, and the LQ input, with paired differences. Each step resumes; on a finished dataset this is the
measurement alone. `--run RUN` measures another run of the same dataset. The judge is in no loss. Tune with --split val;
the test people are the fixed list below, and nothing is kept where they are others.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

from record import finish

COUNTS = (0, 1, 2, 4)
MOST = COUNTS[-1]
# the people of people_crops that a hash of the label puts on either side: SHA-256 of the folder's name, 12 digits
PEOPLE = {
    "test": ("153d91bfaddb", "3c1ba76aa94e", "abf9eb9facd0", "ba6a6a5f94a0", "cbff757f8552"),
    "val": (
        "0a9a5d18dd7e",
        "1e157309936f",
        "64b475e5aca3",
        "96915a5b460f",
        "c56c7ddf51af",
        "dd5bb5aa82d2",
        "e209386dea69",
    ),
}
DIFFERENCES = {"right - none": "right_none", "right - wrong": "right_wrong", "none - LQ": "none_lq"}


def likeness(*words: object) -> None:
    """Run a command; what it prints goes to standard error, since the last line of ours is the result."""
    subprocess.run([sys.executable, "-m", "likeness", *map(str, words)], stdout=sys.stderr, check=True)


def people_of(dataset: Path, lq_set: str) -> list[str]:
    """The names of the people of a frozen set who have two usable photos or more, sorted."""
    from manifests.ledger import Ledger

    with Ledger.open(dataset) as ledger:
        return ledger.query(
            """SELECT coalesce(i.name, i.identity_id) AS person FROM splits s JOIN identities i USING (identity_id)
               WHERE s.status = 'ok' AND s.identity_id IN (
                   SELECT identity_id FROM degradations JOIN splits USING (face_id) WHERE lq_set = ?)
               GROUP BY i.identity_id, i.name HAVING count(*) > 1 ORDER BY person""",
            lq_set,
        )["person"].to_list()


def hashed(names: list[str]) -> list[str]:
    """What of the names is kept: enough to know the people again by, too little to publish them."""
    return sorted(hashlib.sha256(name.encode()).hexdigest()[:12] for name in names)


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """What `train.evaluate.evaluate` answers, by number of references."""
    found: dict[str, Any] = {}
    for row in result["rows"]:
        found[row["key"]] = {
            "id_target": round(row["id_target"]["mean"], 4),
            "ci95": [round(row["id_target"][side], 4) for side in ("low", "high")],
            "psnr": round(row["psnr"]["mean"], 2),
            "ssim": round(row["ssim"]["mean"], 4),
            "id_references": round(row["id_references"]["mean"], 4),
            "images": row["images"],
        }
    found["differences"] = {
        DIFFERENCES[line["difference"]]: {
            "people": line["people"],
            "images": line["images"],
            **{
                metric: {
                    "mean": round(line[metric]["mean"], 4),
                    "ci95": [round(line[metric][side], 4) for side in ("low", "high")],
                    "excludes_zero": line[metric]["excludes_zero"],
                    "people_above": line[metric]["people_above"],
                }
                for metric in ("id_target", "psnr", "ssim", "id_references")
            },
        }
        for line in result["differences"]
    }
    return found


def plot(found: dict[str, Any], judge: str) -> str:
    """An SVG: identity to the target against the number of references, beside the LQ input and wrong references."""
    width, height, left, right, top, bottom = 640, 380, 70, 210, 30, 60
    points = [str(count) for count in COUNTS if str(count) in found]
    others = [key for key in ("lq", f"wrong{MOST}") if key in found]
    bounds = [edge for key in (*points, *others) for edge in found[key]["ci95"]]
    low, high = min(bounds) - 0.005, max(bounds) + 0.005

    def x(count: float) -> float:
        return left + 20 + count / MOST * (width - left - right - 40)

    def y(value: float) -> float:
        return top + (high - value) / (high - low) * (height - top - bottom)

    box = f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box}>',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    parts.append(f'<text x="{left}" y="18">identity to the target (cosine, {judge}), 95% intervals over people</text>')
    step = next(size for size in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if (high - low) / size < 8)
    for tick in range(int(low / step), int(high / step) + 2):
        if low <= tick * step <= high:
            parts.append(f'<path d="M{left} {y(tick * step):.1f}H{width - right}" stroke="#ddd"/>')
            parts.append(
                f'<text x="{left - 8}" y="{y(tick * step) + 4:.1f}" text-anchor="end">{tick * step:.2f}</text>'
            )

    def mark(key: str, place: float, colour: str) -> list[str]:
        lower, upper = found[key]["ci95"]
        return [
            f'<path d="M{place:.1f} {y(lower):.1f}V{y(upper):.1f}" stroke="{colour}" stroke-width="2"/>',
            f'<circle cx="{place:.1f}" cy="{y(found[key]["id_target"]):.1f}" r="5" fill="{colour}"/>',
        ]

    line = " ".join(f"{x(int(key)):.1f},{y(found[key]['id_target']):.1f}" for key in points)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#1f6fb4" stroke-width="2"/>')
    for key in points:
        parts += mark(key, x(int(key)), "#1f6fb4")
        parts.append(f'<text x="{x(int(key)):.1f}" y="{height - bottom + 22}" text-anchor="middle">{key}</text>')
    parts.append(f'<text x="{x(MOST / 2):.1f}" y="{height - 14}" text-anchor="middle">references shown</text>')
    labels = [(points[-1], "of the person", "#1f6fb4"), (f"wrong{MOST}", "of somebody else", "#c2571a")]
    labels += [("lq", "the input itself", "#777")]
    told = [(key, words, colour) for key, words, colour in labels if key in found]
    told.sort(key=lambda one: y(found[one[0]]["id_target"]))
    heights: list[float] = []
    for key, words, colour in told:
        if key == "lq":
            flat = y(found[key]["id_target"])
            parts.append(f'<path d="M{left} {flat:.1f}H{width - right}" stroke="{colour}" stroke-dasharray="5 4"/>')
        elif key.startswith("wrong"):
            parts += mark(key, x(MOST) + 10, colour)
        heights.append(max(y(found[key]["id_target"]) + 4, heights[-1] + 18 if heights else 0))
        value = f"{words}: {found[key]['id_target']:.3f}"
        parts.append(f'<text x="{width - right + 8}" y="{heights[-1]:.1f}" fill="{colour}">{value}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="?", help="a folder of a folder a person; not needed with --run")
    parser.add_argument("--into", type=Path, required=True, help="the dataset's folder")
    parser.add_argument("--faces", default="auto", help="as for `likeness curate`")
    parser.add_argument("--judge", default="dlib", help="dlib, or an .onnx recognizer, that is in no loss")
    parser.add_argument("--run", type=Path, help="a run that is there; default: train INTO/run")
    parser.add_argument("--split", choices=("val", "test"), default="test", help="val for tuning")
    parser.add_argument("--size", type=int, default=128, help="pixels of the frozen sets: the recipe's")
    parser.add_argument("--images", type=int, help="images seen in training; default: the recipe's")
    parser.add_argument("--minutes", type=float, default=40, help="end training after this time at the latest")
    parser.add_argument("--plot", type=Path, help="draw the curve into this SVG")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/reference_benefit.json")
    told = parser.parse_args()
    if told.keep and told.split != "test":
        parser.error("--keep is for the test people: val is for tuning.")
    if told.photos is None and told.run is None:
        parser.error("name the folder of photos, or a run with --run.")
    if told.run is None:
        likeness("curate", told.photos, "--into", told.into, "--faces", told.faces, "--labels", "folder")
    lq_set = f"codeformer-{told.split}-{told.size}-s0"
    likeness("degrade", told.into, "--preset", "codeformer", "--split", told.split, "--size", told.size, "--seed", 0)
    people = people_of(told.into, lq_set)
    print(f"{told.split} people: {', '.join(people)}", file=sys.stderr)
    fixed = hashed(people) == sorted(PEOPLE[told.split])
    if not fixed:
        print(f"These are not the fixed {told.split} people: not comparable with what is kept.", file=sys.stderr)
        if told.keep:
            sys.exit("Nothing is measured: leave --keep away, or use ../shared/data/people_crops with --labels folder.")
    run = told.run or told.into / "run"
    if told.run is None:
        length = () if told.images is None else ("--images", told.images)
        likeness("train", told.into, "--recipe", "tiny", "--out", run, "--minutes", told.minutes, *length)

    from manifests.progress import progress
    from train.evaluate import evaluate

    with progress("images", True) as report:
        result = evaluate(
            run, told.into, lq_set=lq_set, references=MOST, counts=COUNTS, judge=told.judge, report=report
        )
    if result["judge"]["is_the_datasets_own"]:
        sys.exit(f"{told.judge} is the recognizer that the restorer was trained through: name another judge.")
    if result["unseen_in_training"] != "checked":
        sys.exit(f"That {run} has not seen these people could not be checked: {result['unseen_in_training']}.")
    found = summary(result)
    if told.plot is not None:
        told.plot.write_text(plot(found, result["judge"]["spec"]))
    keys = ("lq_set", "images", "people", "interval", "recipe", "images_seen", "checkpoint")
    about = {**{key: result[key] for key in keys}, "judge": result["judge"]["spec"], "split": told.split}
    finish("reference_benefit", {**found, **about, "fixed_people": fixed, "people_sha256": hashed(people)}, told.keep)


if __name__ == "__main__":
    main()
