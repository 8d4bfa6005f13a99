"""Write the folder of a benchmark. If the command is killed, the same command resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from manifests.errors import BadInput
from manifests.pictures.images import UndecodableImage, decode
from manifests.runtime.files import LOCK, find_blocking_file, write_atomically
from manifests.runtime.progress import Progress
from train.benchmark.frozen_benchmark import CARD, hash_picture, is_benchmark


def check_benchmark_folder(out: Path) -> None:
    """Raises BadInput if `out` is a file, or a folder that contains files but no benchmark."""
    if (file := find_blocking_file(out)) is not None:
        raise BadInput(f"{file} is a file, but a benchmark is a folder: give another folder with --out.")
    if out.is_dir() and not is_benchmark(out):
        others = sorted(path.name for path in out.iterdir() if path.suffix != ".tmp" and path.name != LOCK)
        if others:
            raise BadInput(f"{out} is not a benchmark, and it contains {others[0]}: give a new folder with --out.")


def read_card(out: Path) -> dict[str, Any]:
    """Returns the card of the finished or unfinished benchmark in `out`, or {} if `out` contains no benchmark."""
    if not is_benchmark(out):
        return {}
    card: dict[str, Any] = json.loads((out / CARD).read_bytes())
    if not isinstance(card.get("benchmark"), str):
        raise BadInput(f"{out / CARD} does not belong to a benchmark of this version: give another folder with --out.")
    return card


def write_benchmark(
    out: Path, card: dict[str, Any], files: dict[str, bytes], copies: list[tuple[str, str, Path]], progress: Progress
) -> int:
    """Writes the files of a benchmark that are missing or different, and returns the number of written files.

    `files` maps file names to contents. `copies` has (path in the benchmark, name of the picture, file of the dataset)
    for each PNG. The card is written first with `complete` false and last with `complete` true, so that an unfinished
    benchmark is recognized.
    """
    complete, incomplete = (
        (json.dumps({**card, "complete": complete}, indent=2, sort_keys=True) + "\n").encode()
        for complete in (True, False)
    )
    missing_files = [name for name, data in files.items() if _read_if_present(out / name) != data]
    missing_copies = [copy for copy in copies if not _shows_picture(out / copy[0], copy[1])]
    if not missing_files and not missing_copies and _read_if_present(out / CARD) == complete:
        return 0
    write_atomically(out / CARD, incomplete)
    for done, (name, _, source) in enumerate(missing_copies, 1):
        write_atomically(out / name, source.read_bytes())
        progress("copy", done, len(missing_copies))
    for name in missing_files:
        write_atomically(out / name, files[name])
    write_atomically(out / CARD, complete)
    return len(missing_copies) + len(missing_files) + 1


def _read_if_present(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _shows_picture(path: Path, picture: str) -> bool:
    try:
        return hash_picture(decode(path)) == picture
    except (OSError, UndecodableImage):
        return False
