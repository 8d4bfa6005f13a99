"""Evaluate one run on a frozen set, or compare several runs and the results of other methods on the same set.

The functions of this file return a result and also write the result as JSON. A result is a dict that has averages,
differences, and the settings of the measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from manifests.errors import BadInput
from manifests.runtime.progress import Progress
from train.evaluation.evaluator import Evaluator
from train.evaluation.options import EvaluationOptions
from train.evaluation.results.result_images import ImageFolders, PageImages
from train.evaluation.results.write_result import write_result
from train.evaluation.systems.row import Row, label_key
from train.evaluation.systems.rows import OnImage
from train.evaluation.systems.system import list_differences, list_systems


def evaluate(
    run: Path,
    dataset: Path,
    lq_set: str | None = None,
    options: EvaluationOptions | None = None,
    progress: Progress = lambda *_: None,
    page_images: PageImages | None = None,
    with_images: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measures the newest checkpoint of a run on a frozen set, and returns the result.

    The result is written to RUN, into a JSON file whose name begins with evaluation (train/benchmark/short_name.py). A
    row for each image and system is written to a Parquet file of the same name. The systems are the LQ image
    itself, the restoration without references, a restoration for each number of references in `options`, and the
    restoration with wrong references. `options.judge` measures identity. Without a judge, the dataset's own recognizer
    measures identity. The identity loss of a restorer also uses this recognizer. With `with_images`, the restored
    images are written beside the result (train/evaluation/results/result_images.py). Restored images and values are
    also kept in RUN/evaluation-cache.sqlite (train/evaluation/cache). If this file cannot be used, `say` gets a
    sentence. Raises BadInput, LedgerError or FaceModelError if the run cannot be measured on the set.
    """
    options = options or EvaluationOptions()
    evaluator = Evaluator(dataset, lq_set, options, say=say)
    evaluator.load_run(run)
    stem = run / evaluator.name_result_file("evaluation")
    images = ImageFolders(stem, with_images)
    evaluator.on_image = _call_all(images.write, page_images)
    rows = evaluator.measure_run(run, list_systems(options.references, options.counts), progress)
    result = evaluator.build_result(rows, list_differences(options.references)) | evaluator.describe_run(run)
    if page_images is not None:
        page_images.cases, page_images.rows = evaluator.cases, rows
    result |= images.publish() | {"file": f"{stem.name}.json"}
    write_result(stem, result, rows)
    return result


def compare(
    runs: Sequence[Path],
    folders: Sequence[Path] | Mapping[str, Path],
    dataset: Path,
    out: Path,
    lq_set: str | None = None,
    options: EvaluationOptions | None = None,
    progress: Progress = lambda *_: None,
    page_images: PageImages | None = None,
    with_images: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measures several runs, and folders of images that other methods restored, on the same frozen set.

    `folders` can name the folders (name -> folder); otherwise, the name of a folder is used in all tables. The result
    is written to OUT, into a JSON file and a Parquet file whose names begin with comparison. Every run and folder is
    compared, image by image, with the first run, or with the first folder if there is no run. Every file of the folders
    is read before anything is measured. The key `extra` lists the files that match no image. With `with_images`, the
    restored images are written as in `evaluate`. The values of a folder are kept in OUT/evaluation-cache.sqlite, and
    the values of a run in the folder of the run. Raises the same errors as `evaluate`. Raises BadInput also if two runs
    or folders have the same name, if a file has the wrong size, or if a folder lacks an image and `options.partial` is
    False.
    """
    options = options or EvaluationOptions()
    named = list(folders.items()) if isinstance(folders, Mapping) else [(one.resolve().name, one) for one in folders]
    names = [*(run.resolve().name for run in runs), *(name for name, _ in named)]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise BadInput(f"Two of the compared folders have the name {repeated}: give another name with NAME=FOLDER.")
    evaluator = Evaluator(dataset, lq_set, options, out=out, say=say)
    for run in runs:  # an unsuitable run or folder raises BadInput before anything is measured
        evaluator.load_run(run)
    for _, folder in named:
        evaluator.load_folder(folder)
    evaluator.check_folders()
    stem = out / evaluator.name_result_file("comparison")
    images = ImageFolders(stem, with_images)
    evaluator.on_image = _call_all(images.write, page_images)
    rows: list[Row] = []
    systems, about, extra = list_systems(options.references, options.counts), dict[str, Any](), dict[str, list[str]]()
    for run in runs:
        # the LQ images are measured only with the first run
        own = evaluator.measure_run(run, systems[1:] if rows else systems, progress, run.resolve().name)
        rows, about[run.resolve().name] = [*rows, *own], evaluator.describe_run(run)
    for name, folder in named:
        own, extra[name] = evaluator.measure_folder(folder, name, progress, with_input=not rows)
        rows += own
    # without references in the set, the runs are compared without references
    most = options.references if any(case.references for case in evaluator.cases) else 0
    run_keys = [label_key(str(most), run.resolve().name) for run in runs]
    first, *others = [*run_keys, *(name for name, _ in named)]
    pairs = [(f"{other} - {first}", other, first) for other in others]
    for run in runs:
        name = run.resolve().name
        pairs += [
            (f"{name}: {what}", label_key(one, name), label_key(two, name))
            for what, one, two in list_differences(options.references)
        ]
    result = evaluator.build_result(rows, pairs) | {"runs": about, "extra": extra}
    if page_images is not None:
        page_images.cases, page_images.rows = evaluator.cases, rows
    result |= images.publish() | {"file": f"{stem.name}.json"}
    write_result(stem, result, rows)
    return result


def _call_all(write: OnImage, page_images: PageImages | None) -> OnImage:
    """Returns a function that gives each image to `write`, and to `page_images` if there is a page."""
    if page_images is None:
        return write

    def on_image(row: Row, image: np.ndarray) -> None:
        write(row, image)
        page_images.keep(row, image)

    return on_image
