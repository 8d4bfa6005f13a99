"""Exports a dataset: selects the content, checks the output folder, and writes the folder in one of the formats."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.card import render_card
from manifests.errors import BadInput
from manifests.export.formats import Format, select_format
from manifests.export.frozen_records import write_frozen_records
from manifests.export.output_folder import check_output_folder, publish_folder
from manifests.export.plain_tables import write_tables
from manifests.export.selection import ExportOptions, Selection, select_for_export
from manifests.ledger.decisions.applied_decisions import check_decisions_applied
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import SPLITS
from manifests.runtime.files import hash_config
from manifests.runtime.progress import Progress
from manifests.runtime.versions import code_version

CARD = "likeness_export.json"
DATASET_CARD = "likeness_card.md"  # The name of the copy of the dataset card in an export.
VERSION = 3  # Increase this number when the layout of a format changes.


@dataclass(frozen=True)
class ExportResult:
    """Counts of the content of an export, and whether the export was written."""

    format: str
    folder: str
    faces: int
    people: int
    targets: dict[str, int]  # Maps a split to the number of targets with references.
    files: int  # Number of files in the export; 0 after a dry run.
    bytes: int
    left_out: dict[str, dict[str, int]]  # kind of item -> reason -> number of items that were left out
    notices: tuple[str, ...]
    written: bool  # False after a dry run, and if the folder already contained this export.


def export_dataset(
    dataset: Path,
    out: Path,
    name: str,
    options: ExportOptions,
    dry_run: bool = False,
    progress: Progress = lambda *_: None,
) -> ExportResult:
    """Write the export of `dataset` in the format `name` to the folder `out`, and return counts of its content.

    The folder is never visible in a half-written state. If `out` already contains the same export, nothing is written.
    Raises BadInput if the format does not support one of the options, if no face can be exported, or if `out` contains
    other files. Raises LedgerBroken if an image of the dataset is missing or broken.
    """
    format = select_format(name, options)
    dataset, out = Path(dataset), Path(out)
    check_output_folder(dataset, out)
    with Ledger.open(dataset) as ledger:
        check_decisions_applied(ledger)
        selection = format.keep(select_for_export(ledger, options))
        dataset_card = render_card(ledger)
    if not selection.faces:
        counts = _format_left_out(selection) or "no face is in these splits"
        raise BadInput(f"No face is left to export as {name} ({counts}). Name another --split, --set or --format.")
    content_hash = _hash_content(name, selection)
    card = _read_card(out)
    if card.get("hash") == content_hash and _has_all_files(out, card):
        result = _make_result(name, out, selection, format, card["files"], card["bytes"], False)
        return dataclasses.replace(result, notices=(f"{out} already contains this export, so no file was written.",))
    if card.get("hash") == content_hash:
        raise BadInput(
            f"{out} contains this export, but files are missing. Remove the folder, then run the command again."
        )
    if out.is_dir() and any(out.iterdir()):
        raise BadInput(
            f"--out {out} is not empty, and does not contain this export of the present dataset. Name a new or an "
            "empty folder."
        )
    sources = [*(face.image for face in selection.faces.values()), *selection.lq.values()]
    size = sum(path.stat().st_size for path in sources if path.is_file())
    if dry_run:
        return _make_result(name, out, selection, format, 0, size, False)
    _check_disk_space(out, size)
    # some formats read an image twice, so the number of read images may exceed the number of images
    with publish_folder(out, lambda done: progress("export", min(done, len(sources)), len(sources))) as folder:
        format.write(selection, folder)
        write_frozen_records(selection, dataset, folder)
        write_tables(selection, folder)
        folder.add_bytes(DATASET_CARD, dataset_card.encode())
        card = _make_card(name, selection, content_hash) | {"files": folder.files, "bytes": folder.bytes}
        folder.add_bytes(CARD, (json.dumps(card, indent=2, sort_keys=True) + "\n").encode())
    return _make_result(name, out, selection, format, card["files"], card["bytes"], True)


def _check_disk_space(out: Path, size: int) -> None:
    """Raise BadInput if the disk of `out` has fewer free bytes than `size`."""
    place = next(parent for parent in out.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(place).free
    if size > free:
        raise BadInput(
            f"The export needs {size / 2**30:.1f} GiB, but {place} has only {free / 2**30:.1f} GiB. Name a folder on "
            "another disk with --out."
        )


def _hash_content(name: str, selection: Selection) -> str:
    """Returns a hash of everything that decides the content of the export: faces, pairs, options and images.

    Do not change the keys of the hashed dicts. Otherwise Likeness does not recognize earlier exports any more.
    """
    faces = [
        (
            key,
            {
                "face_id": key,
                "identity_id": face.identity_id,
                "split": face.split,
                "picture": None,
                "landmarks5": face.landmarks5,
                "landmarks68": face.landmarks68,
                "told": face.facts,
                "name": face.name,
            },
        )
        for key, face in sorted(selection.faces.items())
    ]
    content = {
        "format": name,
        "version": VERSION,
        "wanted": dataclasses.asdict(selection.options),
        "faces": faces,
        "cases": [vars(pair) for pair in selection.pairs],
        "lq": selection.lq_sha256,
        "recognizer": selection.recognizer,
    }
    return hash_config(content)


def _make_card(name: str, selection: Selection, content_hash: str) -> dict[str, Any]:
    """Returns the content of the file CARD. The content has no path, no time and no name of a person."""
    return {
        "format": name,
        "version": VERSION,
        "likeness": code_version(),
        "hash": content_hash,
        "options": dataclasses.asdict(selection.options),
        "faces": len(selection.faces),
        "targets": _count_targets(selection),
        "left_out": _group_left_out(selection),
        "split_policy": selection.policy,
        "recognizer": selection.recognizer or None,
        "cleaned": _count_cleaned(selection),
    }


def _read_card(out: Path) -> dict[str, Any]:
    """Returns the content of the file CARD in a folder. Returns {} if the file is missing or broken."""
    try:
        card = json.loads((out / CARD).read_bytes())
    except (OSError, ValueError):
        return {}
    return card if isinstance(card, dict) else {}


def _has_all_files(out: Path, card: dict[str, Any]) -> bool:
    """Returns whether a folder contains the card and at least as many other files as the card states."""
    return sum(path.is_file() for path in out.rglob("*")) > int(card.get("files", 0))


def _count_targets(selection: Selection) -> dict[str, int]:
    return {split: len(selection.pairs_of(split)) for split in SPLITS if split in selection.options.splits}


def _count_cleaned(selection: Selection) -> int:
    """Returns the number of exported images that are cleaned versions."""
    return sum(face.facts.get("version", "original") != "original" for face in selection.faces.values())


def _group_left_out(selection: Selection) -> dict[str, dict[str, int]]:
    """Returns kind -> reason -> number of items that were left out. The kinds are faces, targets and references."""
    groups: dict[str, dict[str, int]] = {}
    for (kind, reason), count in sorted(selection.left_out.items()):
        if count:
            groups.setdefault(kind, {})[reason] = count
    return groups


def _format_left_out(selection: Selection) -> str:
    return "; ".join(
        f"{kind}: {', '.join(f'{count} {reason}' for reason, count in counts.items())}"
        for kind, counts in _group_left_out(selection).items()
    )


def _make_result(
    name: str, out: Path, selection: Selection, format: Format, files: int, size: int, written: bool
) -> ExportResult:
    notices = [format.notice] if format.notice else []
    if selection.policy == "photos":
        notices.append("This dataset was split with --split-by photos: the same person can be in train and in test.")
    if selection.options.version == "best":
        notices.append(
            f"{_count_cleaned(selection)} images are cleaned versions of training faces. The column `version` marks "
            "these images. A restorer made the cleaned versions, so they are not ground truth. A cleaned version "
            "has fewer pixels than an original crop."
        )
    if selection.embeddings:
        recognizer = selection.recognizer
        notices.append(
            f"The export contains face embeddings, which are biometric data. The model "
            f"{recognizer.get('file')} computed the {recognizer.get('dim')} numbers of each embedding."
        )
    return ExportResult(
        name,
        str(out),
        len(selection.faces),
        len({face.identity_id for face in selection.faces.values()}),
        _count_targets(selection),
        files,
        size,
        _group_left_out(selection),
        tuple(notices),
        written,
    )
