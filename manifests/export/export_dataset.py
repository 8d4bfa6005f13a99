"""DATASET -> a folder in a format that others read: the table of formats, and what every one of them keeps to."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.errors import BadInput
from manifests.export.formats import Format, select_format
from manifests.export.output_folder import check_output_folder, publish_folder
from manifests.export.selection import SPLITS, ExportOptions, Selection, select_for_export
from manifests.ledger.ledger import Ledger
from manifests.runtime.files import hash_config
from manifests.runtime.progress import Progress
from manifests.runtime.versions import code_version

CARD = "likeness_export.json"
VERSION = 1  # of the layouts


@dataclass(frozen=True)
class ExportResult:
    """What an export holds. `left_out` counts, by kind (faces, targets, references) and reason."""

    format: str
    folder: str
    faces: int
    people: int
    targets: dict[str, int]  # split -> targets with references
    files: int  # 0 where nothing was written
    bytes: int
    left_out: dict[str, dict[str, int]]
    notices: tuple[str, ...]
    written: bool  # false: a dry run, or it was there already


def export_dataset(
    dataset: Path,
    out: Path,
    name: str,
    options: ExportOptions,
    dry_run: bool = False,
    progress: Progress = lambda *_: None,
) -> ExportResult:
    """Write `dataset` to `out` in the format `name`, whole or not at all; the same command again finds it done.

    Raises BadInput for what the format cannot take or has no place for, and for a folder that holds anything else;
    LedgerBroken where a picture is missing or broken.
    """
    kind = select_format(name, options)
    dataset, out = Path(dataset), Path(out)
    check_output_folder(dataset, out)
    with Ledger.open(dataset) as ledger:
        selection = kind.keep(select_for_export(ledger, options))
    if not selection.faces:
        raise BadInput(f"Nothing is left to export as {name}: {_listed(selection) or 'no face is in these splits'}.")
    digest = _digest(name, selection)
    card = _card(out)
    if card.get("hash") == digest and _intact(out, card):
        told = _told(name, out, selection, kind, card["files"], card["bytes"], False)
        return dataclasses.replace(told, notices=(f"{out} holds this export already: nothing was written.",))
    if card.get("hash") == digest:
        raise BadInput(f"{out} holds this export no longer whole: remove it, then run the same command again.")
    if out.is_dir() and any(out.iterdir()):
        raise BadInput(f"--out {out} is not empty and is no export of this state: name a new or an empty folder.")
    sources = [*(face.image for face in selection.faces.values()), *selection.lq.values()]
    size = sum(path.stat().st_size for path in sources if path.is_file())
    if dry_run:
        return _told(name, out, selection, kind, 0, size, False)
    _check_room(out, size)
    with publish_folder(out, lambda done: progress("export", done, len(sources))) as folder:
        kind.write(selection, folder)
        facts = _facts(name, selection, digest) | {"files": folder.files, "bytes": folder.bytes}
        folder.add_bytes(CARD, (json.dumps(facts, indent=2, sort_keys=True) + "\n").encode())
    return _told(name, out, selection, kind, facts["files"], facts["bytes"], True)


def _check_room(out: Path, size: int) -> None:
    place = next(parent for parent in out.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(place).free
    if size > free:
        raise BadInput(
            f"{place} has {free / 2**30:.1f} GiB free and the export needs {size / 2**30:.1f}: name another --out."
        )


def _digest(name: str, selection: Selection) -> str:
    """The same for the same content, and other when a face, a reference, an option or a recorded fact changes."""
    faces = [
        (
            key,
            {
                "face_id": key,
                "identity_id": face.identity_id,
                "split": face.split,
                "picture": None,  # a path, which says nothing of the content
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


def _facts(name: str, selection: Selection, digest: str) -> dict[str, Any]:
    """What lies beside the pictures: no path, no clock, nobody's name."""
    return {
        "format": name,
        "version": VERSION,
        "likeness": code_version(),
        "hash": digest,
        "options": dataclasses.asdict(selection.options),
        "faces": len(selection.faces),
        "targets": _targets(selection),
        "left_out": _left_out(selection),
        "split_policy": selection.policy,
        "recognizer": selection.recognizer or None,
        "cleaned": sum(face.facts.get("version", "original") != "original" for face in selection.faces.values()),
    }


def _card(out: Path) -> dict[str, Any]:
    try:
        card = json.loads((out / CARD).read_bytes())
    except (OSError, ValueError):
        return {}
    return card if isinstance(card, dict) else {}


def _intact(out: Path, card: dict[str, Any]) -> bool:
    """Whether no file is gone, as far as their number tells; what its user has added since is their own."""
    return sum(path.is_file() for path in out.rglob("*")) > int(card.get("files", 0))  # and the card itself


def _targets(selection: Selection) -> dict[str, int]:
    return {split: len(selection.pairs_of(split)) for split in SPLITS if split in selection.options.splits}


def _left_out(selection: Selection) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for (what, reason), count in sorted(selection.left_out.items()):
        if count:
            found.setdefault(what, {})[reason] = count
    return found


def _listed(selection: Selection) -> str:
    counts = _left_out(selection)
    return "; ".join(f"{what}: {', '.join(f'{n} {why}' for why, n in found.items())}" for what, found in counts.items())


def _told(
    name: str, out: Path, selection: Selection, kind: Format, files: int, size: int, written: bool
) -> ExportResult:
    notices = [kind.notice] if kind.notice else []
    if selection.policy == "photos":
        notices.append("The splits are of --split-by photos: the same person is in train and in test.")
    if selection.options.version == "best":
        cleaned = [face for face in selection.faces.values() if face.facts["version"] != "original"]
        notices.append(
            f"{len(cleaned)} pictures are cleaned versions of training faces, marked by `version` and smaller than the "
            "others: pictures that a restorer made, no ground truth."
        )
    if selection.embeddings:
        made = selection.recognizer
        notices.append(f"Embeddings are biometric data: of {made.get('file')}, {made.get('dim')} numbers a face.")
    return ExportResult(
        name,
        str(out),
        len(selection.faces),
        len({face.identity_id for face in selection.faces.values()}),
        _targets(selection),
        files,
        size,
        _left_out(selection),
        tuple(notices),
        written,
    )
