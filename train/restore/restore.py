"""Any photo -> the same photo with its faces restored, guided by reference photos of the person."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from manifests.errors import BadInput
from manifests.ledger.paths import LEDGER_NAME
from manifests.runtime.files import hash_config, lock_folder, remove_temporary_files, sha256_file
from manifests.runtime.progress import Progress
from manifests.runtime.text import make_printable
from manifests.runtime.untrusted_images import open_reader
from train.restore.load import load_restorer, load_restorer_faces, move_to_device
from train.restore.log import entry, select_earlier_entries, write_log
from train.restore.output_paths import plan_outputs
from train.restore.reference_photos import list_reference_files, read_references
from train.restore.restore_photo import OnFace, PhotoOutcome, _restore_one

if TYPE_CHECKING:
    from manifests.privacy.kept_out import KeptOutList

LOOKS = {"maps", "embedding", "extended", "identity"}  # the parts that look at references

OPTED_OUT = "It is kept out of the dataset of this run (opted out, or purged), so it was not restored."
STOPPED = "The run was stopped before this photo: the same command again restores it."


def restore(
    inputs: Sequence[Path],
    references: Sequence[Path],
    checkpoint: Path,
    out: Path,
    *,
    base_model: str | None = None,
    faces: str | None = None,
    steps: int = 1,
    aligned: bool = False,
    box: tuple[float, float, float, float] | None = None,
    progress: Progress = lambda *_: None,
    say: Callable[[str], None] = lambda _: None,
    on_face: OnFace = lambda *_: None,
    limited: bool = False,
) -> list[PhotoOutcome]:
    """Restore photos and folders of photos into `out` as PNG, with a row for each in OUT/restored.jsonl.

    Without references every face is restored; with references those that match them, and a face that is alone in its
    photo and too degraded to be recognized. A photo that cannot be restored, and a folder that cannot be read, is a row
    with status failed. `aligned` takes the inputs as square FFHQ-template crops and answers crops of the restorer's
    size. `box` (x0, y0, x1, y1) names the face in a single photo. `checkpoint`, `base_model` and `steps` are as in
    `load_restorer`. `faces` replaces the recorded --faces spec where the files have moved. `notice` is told, a sentence
    each, what was assumed of the references; `watch` is shown every face that is restored. `limited` decodes photos and
    references in a process of their own, where one that hangs, crashes or wants too much memory costs itself alone;
    else they are decoded here, where nothing is limited. Raises BadInput (also where a file in `out` would be
    overwritten that is not this photo restored with these very settings), ModelUnavailable or FaceModelError before
    anything is written.
    """
    if box is not None and (aligned or len(inputs) != 1 or not inputs[0].is_file()):
        raise BadInput("--box names a face in one photo: give one photo, and no --aligned.")
    if box is not None and not (all(map(math.isfinite, box)) and box[0] < box[2] and box[1] < box[3]):
        raise BadInput("--box is x0,y0,x1,y1 in pixels, four finite numbers with x0 < x1 and y0 < y1.")
    model = move_to_device(load_restorer(checkpoint, base_model, steps))
    models = load_restorer_faces(model, faces)
    todo, unreadable = plan_outputs(inputs, out)
    shown_files = list_reference_files(references, [path for path, _ in todo])
    if shown_files and not LOOKS & set(model.config.parts):
        say("This restorer looks at no reference: they decide which faces are restored, and nothing else.")
    kept_out = _kept_out_near(Path(checkpoint))
    shown_files = _allowed(shown_files, kept_out, say)
    with open_reader(limited) as read:
        known = read_references(shown_files, model, models, say, read)
        if kept_out is not None and kept_out.matches(known.embeddings.numpy()).any():
            raise BadInput("A reference shows a face that opted out of the dataset of this run: name others.")
        settings = hash_config(
            {
                "checkpoint": str(checkpoint.resolve()),
                "base_model": model.config.base_model,
                "restorer": model.facts,
                "references": [sha256_file(path) for path, _ in shown_files],
                "aligned": aligned,
                "box": box,
                **({"steps": steps} if steps > 1 else {}),
            }
        )
        with lock_folder(out):
            for folder in sorted({out, *(target.parent for _, target in todo)}):
                remove_temporary_files(folder, below=False)
            kept, rows = select_earlier_entries(out, todo, settings), list[PhotoOutcome]()
            closed = [PhotoOutcome(str(folder), None, "failed", reason) for folder, reason in unreadable]

            def log() -> None:
                stopped = [PhotoOutcome(str(path), None, "failed", STOPPED) for path, _ in todo[len(rows) :]]
                done = zip(todo, [*rows, *stopped], strict=True)
                now = [entry(asdict(row), path, target, out, settings) for (path, target), row in done]
                write_log(out, [*kept, *now, *(asdict(row) for row in closed)])

            log()  # before the first file, so that a killed run knows its own files again
            try:
                for path, target in todo:
                    try:
                        if (
                            kept_out is not None
                            and path.is_file()
                            and kept_out.reason_for(sha256_file(path)) is not None
                        ):
                            row = PhotoOutcome(str(path), None, "dropped", OPTED_OUT)
                        else:
                            row = _restore_one(path, target, model, models, known, aligned, box, on_face, read)
                    except Exception as error:  # one odd photo must not end a folder of thousands
                        said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
                        row = PhotoOutcome(str(path), None, "failed", f"The photo could not be restored: {said}.")
                    rows.append(row)
                    progress("restore", len(rows), len(todo))
            finally:
                log()
    return [*rows, *closed]


def _kept_out_near(checkpoint: Path) -> KeptOutList | None:
    """Who is kept out of the dataset that a run lies in; None where it lies in none, and then no ledger is needed."""
    place = checkpoint.absolute()
    for folder in (place, *place.parents):
        if (folder / LEDGER_NAME).is_file():
            from manifests.privacy.kept_out import open_kept_out_list

            return open_kept_out_list(folder)
    return None


def _allowed(
    files: Sequence[tuple[Path, Path | None]], kept_out: KeptOutList | None, say: Callable[[str], None]
) -> list[tuple[Path, Path | None]]:
    """The references without those that are kept out, each of which is told; one that was named itself is refused."""
    found = []
    for path, folder in files:
        if kept_out is None or not path.is_file() or kept_out.reason_for(sha256_file(path)) is None:
            found.append((path, folder))
        elif folder is None:
            raise BadInput(
                f"The reference {make_printable(path)} is kept out of the dataset of this run: name another."
            )
        else:
            say(f"Left out of the references: {make_printable(path)} is kept out of the dataset of this run.")
    return found
