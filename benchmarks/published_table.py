"""Measures the recipe `tiny` on four test sets, and writes the table of docs/published_table.md.

    python benchmarks/published_table.py ../shared/data --out FOLDER [--weights FOLDER] [--keep]

The benchmark curates `people_crops` with the folder names as labels, trains the recipe `tiny` on the train people as
benchmarks/reference_benefit.py does, imports two published sets, and measures the restorer with `likeness evaluate`. If
the benchmark is interrupted, run it again: each of its commands continues where it stopped. `--run RUN` measures
another run of the same people.

| set | images |
|---|---|
| `codeformer` | photos of the fixed test people of `people_crops`, degraded with the preset `codeformer` |
| `bicubic-x8` | the same photos, shrunk to an eighth of their side and enlarged again (preset `bicubic-x8`) |
| `lq_with_references` | the examples of DMDNet, ASFFNet and ReF-LDM, with references and measured without targets |
| `lq_real` | degraded faces without references and without targets |

`evaluate` measures the LQ input, and the restorer without references, with references and with references of another
person. `--weights FOLDER` adds LPIPS and DISTS. With `--keep`, the benchmark writes the JSON and the page. A result on
other test people is never kept.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from record_result import record_result
from reference_benefit import PEOPLE, hash_names, list_people, run_likeness

from manifests.report.result_notices import make_notices
from manifests.report.result_tables import make_tables, make_title

PAGE = Path(__file__).resolve().parents[1] / "docs" / "published_table.md"
FACES = "weights/insightface_small"  # The face models of the curation, inside the data folder.
SIZE = 256  # The side of the images of recipe tiny, in pixels.
IMAGES = 20_000  # The number of images (ours) in the training.
# Some metrics say little alone, so the table also has metrics to compare them with: the identity to the target and the
# copy ratio for IPS, and the share of faces that are found for the distance of landmarks.
METRICS = (
    *("psnr", "ssim", "vif", "id_target", "id_references", "copy_ratio", "takeover", "same_person"),
    *("id_input", "input_agreement", "face_restored", "lmd"),
)
WITH_WEIGHTS = ("lpips", "dists")  # These metrics need the VGG16 in --weights.
PRESETS = ("codeformer", "bicubic-x8")
# The folders of three projects lie side by side: dmdnet_PERSON, asffnet_PERSON and refldm_PERSON.
LAYOUT = """lq = "{project}_{person}/lq/{stem}.*"
references = "{project}_{person}/refs/*"
origin = "csxmli2016/DMDNet, csxmli2016/ASFFNet512 and ChiWeiHsiao/ref-ldm: their examples"
licence = "CC BY-NC-SA 4.0, or not known"
"""
# What the page says about each set.
ABOUT = {
    "codeformer": "Photos of people who are not in the training, degraded with the preset `codeformer`. The preset "
    "shrinks an image and enlarges it bilinearly, so the LQ input is the bilinear enlargement.",
    "bicubic-x8": "The same photos, shrunk to an eighth of their side and enlarged by bicubic interpolation, without "
    "blur and noise. The LQ input is therefore the bicubic enlargement. The training does not use this degradation.",
    "lq_with_references": "The examples of DMDNet, ASFFNet and ReF-LDM: LQ images with references. The clean photo "
    "of only one image is published, so the set is measured without targets. The images are measured at the size of "
    "the set. The restorer works at 256 px: its inputs are shrunk, and its results are enlarged by cubic "
    "interpolation.",
    "lq_real": "Degraded faces from the examples of CodeFormer, VQFR, GFPGAN, DFDNet and DMDNet, without references "
    "and without targets. Smaller images are enlarged by cubic interpolation to the size of the set. The restorer "
    "works at 256 px, as above.",
}
INTRODUCTION = """This page shows how well the small restorer `tiny` restores the sets that we have. Do not compare it
with the published restorers: `tiny` is trained from scratch on 2 cores, on photos of a few dozen people. One command
makes this page. WEIGHTS is a folder with torchvision's `vgg16-397923af.pth`. Our file of this name has only the
convolutions of VGG16. Without `--weights`, LPIPS and DISTS are missing:

    python benchmarks/published_table.py ../shared/data --out FOLDER --weights WEIGHTS --keep

The columns of the tables are systems. *LQ input* is the degraded image itself. *restored, no reference* is the image
that `tiny` restores without references. *restored* has up to {references} references of the person, and *restored,
wrong references* has as many references of another person. References are checked as in `likeness restore`. In the
names of the paired differences, *right* is the restorer with references, *wrong* the restorer with wrong references,
*none* the restorer without references, and *LQ* the LQ input. Brackets contain 95% intervals. A dash means that a
metric was not measured. The list below each table gives the reason, and counts the images."""


def measure_set(place: Path, run: Path, options: argparse.Namespace, *words: object) -> dict[str, Any]:
    """Measures a run on a set with `likeness evaluate`, and returns the result without paths and names of people."""
    metrics = ",".join((*METRICS, *(WITH_WEIGHTS if options.weights else ())))
    weights = ("--weights", options.weights) if options.weights else ()
    command = (place, "--run", run, *words, "--metrics", metrics, "--judge", options.judge, *weights)
    done = subprocess.run(
        [sys.executable, "-m", "likeness", "evaluate", *map(str, command), "--leave-out-seen", "--json"],
        stdout=subprocess.PIPE,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    if result["judge"]["is_the_datasets_own"]:
        sys.exit(f"{options.judge} is the recognizer that the restorer was trained with. Give another --judge.")
    result["training_overlap"].pop("seen", None)  # names people
    private = ("dataset", "set_argument", "file")
    kept = {key: value for key, value in result.items() if key not in private}
    return kept | {"unmeasured": [{key: row[key] for key in ("key", "reason")} for row in result["unmeasured"]]}


def import_sets(data: Path, out: Path) -> dict[str, tuple[Path, Path]]:
    """Imports the two published sets. Returns the folder and the benchmark of each set."""
    layout = out / "lq_with_references.toml"
    layout.write_text(LAYOUT)
    sets = {}
    for name, words in (("lq_with_references", layout), ("lq_real", "folder")):
        sets[name] = data / name, out / f"benchmark-{name}"
        run_likeness("import-benchmark", data / name, "--layout", words, "--out", out / f"benchmark-{name}")
    return sets


def render_page(record: Mapping[str, Any]) -> str:
    """Returns the page of a kept result as Markdown. Every figure of the page is from the result."""
    sets: dict[str, dict[str, Any]] = record["result"]["sets"]
    first = next(iter(sets.values()))
    parts = ["# A table of our own", "", *_wrap(INTRODUCTION.format(references=first["references"])), ""]
    parts += _wrap(
        f"Measured on {record['date']} (commit {record['commit']}) on {record['machine']}. The restorer saw "
        f"{first['images_seen']:,} images in its training."
    )
    conventions: dict[str, str] = {}
    for name, result in sets.items():
        parts += ["", f"## {name}", "", *_wrap(ABOUT[name]), "", f"**{make_title(result)}**"]
        for title, headings, rows in make_tables(result):
            parts += ["", f"{title}:", "", *_draw_table(headings, rows)]
        notices = [f"\\{notice}" if notice.startswith("*") else notice for notice in make_notices(result)]
        parts += ["", *(line for notice in notices for line in _wrap(f"- {notice}"))]
        for metric in result["metrics"].values():
            conventions[metric["title"]] = f"{metric['convention']} ({metric['source']})."
    parts += ["", "## Conventions", ""]
    parts += [line for title, text in conventions.items() for line in _wrap(f"- {title}: {text}")]
    return "\n".join(parts) + "\n"


def _wrap(text: str) -> list[str]:
    """Returns the lines of a text: paragraphs and list items have at most 120 characters a line, code stays."""
    lines = []
    for paragraph in text.split("\n\n"):
        indent = "  " if paragraph.startswith("- ") else ""
        plain = paragraph if paragraph.startswith("    ") else " ".join(paragraph.split())
        wrapped = textwrap.wrap(plain, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        lines += [*([""] if lines else []), *wrapped]
    return lines


def _draw_table(headings: list[str], rows: list[list[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (headings, *rows)]
    return [f"| {' | '.join(cells[0])} |", f"|---|{'---:|' * (len(headings) - 1)}"] + [
        f"| {' | '.join(row)} |" for row in cells[1:]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder that contains people_crops, lq_with_references and lq_real")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the dataset, the run and the benchmarks")
    parser.add_argument("--run", type=Path, help="an existing run on the train people (default: train OUT/run)")
    parser.add_argument("--images", type=int, default=IMAGES, help="the number of images that the training sees")
    parser.add_argument("--judge", default="dlib", help="a recognizer that no loss uses: dlib or an .onnx file")
    parser.add_argument(
        "--weights", type=Path, help="a folder with torchvision's VGG16, to measure LPIPS and DISTS too"
    )
    parser.add_argument("--keep", action="store_true", help="write the result and docs/published_table.md")
    options = parser.parse_args()
    for name in ("people_crops", "lq_with_references", "lq_real", FACES):
        if not (options.data / name).is_dir():
            parser.error(f"{options.data / name} is not a folder: give the folder that contains {name}.")
    dataset, run = options.out / "people", options.run or options.out / "run"
    if options.run is not None and not (options.run / "snapshot").exists():
        parser.error(f"{options.run} has no folder snapshot, which lists the people of the training: name another run.")
    options.out.mkdir(parents=True, exist_ok=True)
    # The fixed test set contains all usable faces, although most of their crops lie partly outside their photos.
    choices = ("--faces", f"insightface:{options.data / FACES}", "--labels", "folder", "--filters", "keep-outside")
    run_likeness("curate", options.data / "people_crops", "--out", dataset, *choices)
    for preset in PRESETS:
        run_likeness("degrade", dataset, "--preset", preset, "--split", "test", "--size", SIZE, "--seed", 0)
    people = hash_names(list_people(dataset, f"{PRESETS[0]}-test-{SIZE}-s0"))
    if options.keep and people != sorted(PEOPLE["test"]):
        sys.exit("The test people of the dataset are not the fixed test people, so the result would not be kept.")
    sets = import_sets(options.data, options.out)
    if options.run is None:
        run_likeness("train", dataset, "--recipe", "tiny", "--out", run, "--images", options.images)
    results = {preset: measure_set(dataset, run, options, "--set", f"{preset}-test-{SIZE}-s0") for preset in PRESETS}
    for name, (place, benchmark) in sets.items():
        results[name] = measure_set(place, run, options, "--benchmark", benchmark)
    record = record_result("published_table", {"people_sha256": people, "sets": results}, options.keep)
    if options.keep:
        PAGE.write_text(render_page(record))
    else:
        print(render_page(record), file=sys.stderr)


if __name__ == "__main__":
    main()
