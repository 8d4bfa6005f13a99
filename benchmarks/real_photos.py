"""Measures a trained restorer on photos whose faces were not degraded by a program.

    python benchmarks/real_photos.py --run RUN [--data ../shared/data] [--judge dlib] [--sheet FOLDER] [--keep]

The photos of `asffnet_obama` are restored with their references. These photos are the files from the web in
`lq_raw_real`, and not the enlarged crops in `lq`. The photos of `lq_real` are restored without references. The
benchmark calls the function behind `likeness restore`, which writes lossless files here. All figures are measured on
the files that `restore` writes.

Before the restorer runs, the benchmark chooses the faces that it counts: all faces whose fineness is below
MAX_FINENESS. A photo in which the detector finds no face counts as one face that is not restored. The benchmark prints
for each source how many faces were restored, and why the other faces were not restored. A table compares four images of
each restored face:

- lq_input: the LQ input,
- unsharp_mask: the LQ input after Pillow's unsharp mask with default settings (radius 2 px, 150%, threshold 3),
- faint_mask: the LQ input after a weak unsharp mask,
- restored: the restored face.

The amount of the faint mask is chosen so that its results have the same median sharpness ratio as the restored faces.
The faint mask changes almost nothing, so its results agree with the input very well.

| column | meaning |
|---|---|
| sharpness ratio | the sharpness divided by the sharpness of the input (`measure_sharpness_ratio`): median and least |
| agreement | PSNR in dB between the input and the blurred, shrunk image (`measure_agreement`): mean; unchanged: 68.1 |
| to references | the judge's mean cosine to the references that `restore` chose: mean |
| to input | the judge's cosine to the input, only for faces without references: mean |

The judge is a recognizer that no loss uses. With --sheet, the benchmark writes pictures of all counted faces into
FOLDER, without resizing. The pictures show a restored face before and after the restoration, and show any other face
one time. The number in the caption is the sharpness ratio. The photos have no licence: do not publish the pictures.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from face_sheets import cut_region, draw_tile, write_sheets
from load_judge import load_judge
from PIL import Image, ImageFilter
from real_faces import MAX_FINENESS, ROWS, Face, Figures, cut_crop, find_counted_faces, measure_image, measure_ratio
from record_result import record_result
from unsharp_mask import SIGMA, find_amount, sharpen_face

from curate.faces.align import FFHQ_SIZE, embed_face
from curate.faces.find_faces import find_usable_faces
from curate.faces.interface import FaceModels
from manifests.pictures.images import decode
from train.models.restorer import Restorer
from train.restore.decisions.harm import RESTORED
from train.restore.decisions.outcomes import FaceOutcome, PhotoOutcome
from train.restore.output_paths import list_photos
from train.restore.restore_photos import restore
from train.restore.restorers.face_restorer import load_restorer_faces
from train.restore.restorers.load_restorer import load_restorer

# Our goals: at least this share of the faces is restored, and every restored face has at least this sharpness ratio.
LEAST_SHARE, LEAST_SHARPNESS = 2 / 3, 0.95
FAILED = "failed"  # the decision for every face of a photo, if `restore` could not restore the photo


class Source(NamedTuple):
    """Names a folder of degraded photos and the folder of their references, both inside the data folder."""

    name: str
    photos: str
    references: str | None


SOURCES = (
    Source("asffnet_obama", "lq_with_references/asffnet_obama/lq_raw_real", "lq_with_references/asffnet_obama/refs"),
    Source("lq_real", "lq_real", None),
)


def add_outcome(faces: Sequence[Face | None], outcome: PhotoOutcome, references: Mapping[str, np.ndarray]) -> None:
    """Adds the decisions of `restore` for one photo, and the restored photo, to the faces of the photo.

    `references` maps the file of a reference to the judge's embedding (d,).
    """
    after = decode(Path(outcome.output)) if outcome.status == "ok" and outcome.output else None
    outcomes: Sequence[FaceOutcome | None] = outcome.faces or [None] * len(faces)
    for face, found in zip(faces, outcomes, strict=True):
        if face is None or face.found is None:
            continue
        if found is None:
            face.decision = FAILED
            continue
        assert np.abs(face.found.box - found.box).max() < 0.1, "`restore` found other faces than the benchmark"
        face.decision, face.after = found.decision, after if found.restored else None
        face.references = [references[use.file] for use in found.references]
        face.sharpness_in_log = found.measures.sharpness_ratio if found.measures else None


def measure_faces(faces: Sequence[Face], judge: FaceModels) -> float:
    """Measures the four images of each restored face, and returns the amount of the faint mask."""
    restored = [face for face in faces if face.after is not None]
    for face in restored:
        assert face.after is not None
        face.rows = {"lq_input": measure_image(face, face.image, judge)}
        face.rows["restored"] = measure_image(face, face.after, judge)
        masked = np.asarray(Image.fromarray(face.image).filter(ImageFilter.UnsharpMask()))
        face.rows["unsharp_mask"] = measure_image(face, masked, judge)
    if not restored:
        return 0.0

    def sharpen(face: Face, amount: float) -> np.ndarray:
        assert face.found is not None and face.measured is not None
        return sharpen_face(face.image, face.measured.crop, face.found.landmarks5, amount)

    def compute_ratio(amount: float) -> float:
        return float(np.median([measure_ratio(face, sharpen(face, amount)) for face in restored]))

    amount = find_amount(compute_ratio, float(np.median([face.rows["restored"].sharpness_ratio for face in restored])))
    for face in restored:
        face.rows["faint_mask"] = measure_image(face, sharpen(face, amount), judge)
    return amount


def summarise(faces: Sequence[Face]) -> dict[str, Any]:
    """Returns the decisions by source, the table, and whether each goal is reached (None if nothing is measured)."""
    decisions: dict[str, dict[str, int]] = {}
    for source in (*dict.fromkeys(face.source for face in faces), "total"):
        among = [face for face in faces if source in (face.source, "total")]
        decisions[source] = dict(Counter(face.decision for face in among).most_common())
    measured = [face for face in faces if face.rows]
    table: dict[str, dict[str, Any]] = {
        row: {name: _describe([getattr(face.rows[row], name) for face in measured]) for name in Figures._fields}
        for row in ROWS
    }
    in_log = _describe([face.sharpness_in_log for face in measured])
    share = decisions["total"].get(RESTORED, 0) / len(faces) if faces else 0.0

    def beats(other: str, name: str, strictly: bool = True) -> bool | None:
        ours, others = (table[row][name] for row in ("restored", other))
        if ours is None or others is None:
            return None
        return bool(ours["mean"] > others["mean"] if strictly else ours["mean"] >= others["mean"])

    sharpness = table["restored"]["sharpness_ratio"]
    goals = {
        "two_thirds_restored": share >= LEAST_SHARE,
        "every_face_sharp": None if sharpness is None else sharpness["least"] >= LEAST_SHARPNESS,
        "identity_not_below_input": beats("lq_input", "identity_to_references", strictly=False),
        **{
            f"beats_{mask}_in_{name}": beats(mask, name)
            for mask in ("unsharp_mask", "faint_mask")
            for name in ("agreement", "identity_to_references", "identity_to_input")
        },
    }
    counts = {"faces": len(faces), "restored": len(measured), "share_restored": round(share, 3)}
    return {**counts, "decisions": decisions, "table": table, "sharpness_in_log": in_log, "goals": goals}


def _describe(values: Sequence[float | None]) -> dict[str, float] | None:
    known = np.array([value for value in values if value is not None], float)
    if not len(known):
        return None
    figures = {"mean": known.mean(), "median": np.median(known), "least": known.min()}
    return {"faces": len(known), **{name: round(float(value), 3) for name, value in figures.items()}}


def format_summary(summary: Mapping[str, Any]) -> str:
    """Returns the decisions, the table and the goals as text."""
    lines = []
    for source, counts in summary["decisions"].items():
        kept = ", ".join(f"{count} {reason}" for reason, count in counts.items() if reason != RESTORED)
        restored = f"{counts.get(RESTORED, 0):3} of {sum(counts.values())} restored"
        lines.append(f"{source:14} {restored}; not restored: {kept or '-'}")
    columns = {
        "sharpness ratio": ("sharpness_ratio", "median"),
        "least": ("sharpness_ratio", "least"),
        "agreement": ("agreement", "mean"),
        "to references": ("identity_to_references", "mean"),
        "to input": ("identity_to_input", "mean"),
    }
    lines.append(f"{'':14}" + "".join(f"{column:>17}" for column in columns))
    for row, figures in summary["table"].items():
        cells = ("-" if figures[name] is None else f"{figures[name][kind]:.3f}" for name, kind in columns.values())
        lines.append(f"{row:14}" + "".join(f"{cell:>17}" for cell in cells))
    words = {True: "reached", False: "not reached", None: "not measured"}
    return "\n".join([*lines, *(f"goal {name}: {words[reached]}" for name, reached in summary["goals"].items())])


def embed_references(paths: Sequence[Path], models: FaceModels, judge: FaceModels) -> dict[str, np.ndarray]:
    """Returns the judge's embedding (d,) of the largest face of each reference, by the path of the reference."""
    vectors = {}
    for path in paths:
        image = decode(path)
        faces = find_usable_faces(image, models)
        if faces:
            largest = max(faces, key=lambda face: float(np.prod(face.box[2:] - face.box[:2])))
            vectors[str(path)] = embed_face(cut_crop(image, largest, FFHQ_SIZE), judge)
    return vectors


def restore_sources(data: Path, run: Path, model: Restorer, judge: FaceModels) -> list[Face]:
    """Restores the photos of each source into a temporary folder, and returns the counted faces."""
    models, size = load_restorer_faces(model.facts, None), model.config.size
    found = {one.name: find_counted_faces(one.name, list_photos(data / one.photos), models, size) for one in SOURCES}
    counts = {name: sum(face is not None for _, faces in photos for face in faces) for name, photos in found.items()}
    print(f"Counted faces, with a fineness below {MAX_FINENESS:g} at {size} pixels: {counts}", file=sys.stderr)
    for one in SOURCES:
        photos, folders = found[one.name], [data / one.references] if one.references else []
        references = embed_references([path for folder in folders for path in list_photos(folder)], models, judge)
        with tempfile.TemporaryDirectory() as out:
            say = lambda sentence: print(sentence, file=sys.stderr)  # noqa: E731
            outcomes = restore([data / one.photos], folders, run, Path(out), lossless=True, say=say)
            by_photo = {outcome.photo: outcome for outcome in outcomes}
            for path, faces in photos:
                add_outcome(faces, by_photo[str(path)], references)
    return [face for photos in found.values() for _, faces in photos for face in faces if face is not None]


def draw_face(face: Face) -> Image.Image:
    """Returns a face before and after the restoration, with a caption.

    A photo in which the detector finds no face is shown whole.
    """
    images = [face.image] if face.after is None else [face.image, face.after]
    if face.found is not None:
        images = [cut_region(image, face.found.box) for image in images]
    ratio = f" {face.rows['restored'].sharpness_ratio:.2f}" if face.rows else ""
    return draw_tile(images, f"{face.name}: {face.decision}{ratio}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="the run of the restorer")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder of the photos")
    parser.add_argument("--judge", default="dlib", help="a recognizer that no loss uses: dlib or insightface:FOLDER")
    parser.add_argument("--sheet", type=Path, help="a folder for pictures of all counted faces")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/real_photos.json")
    options = parser.parse_args()
    for place in (place for one in SOURCES for place in (one.photos, one.references) if place):
        if not (options.data / place).is_dir():
            sys.exit(f"{options.data / place} is not a folder: name the folder that contains {place} with --data.")
    model = load_restorer(options.run)
    judge = load_judge(options.judge, model)
    faces = restore_sources(options.data, options.run, model, judge)
    amount = measure_faces(faces, judge)
    summary = summarise(faces)
    print(format_summary(summary), file=sys.stderr)
    if options.sheet is not None:
        for path in write_sheets([draw_face(face) for face in faces], options.sheet, "real_photos"):
            print(f"Wrote {path}", file=sys.stderr)
    facts = {"max_fineness": MAX_FINENESS, "judge": options.judge, "faint_mask": {"sigma": SIGMA, "amount": amount}}
    record_result("real_photos", {**facts, **summary}, options.keep)


if __name__ == "__main__":
    main()
