"""DATASET -> a folder in a format that others read: the table of formats, and what every one of them keeps to."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.errors import BadInput
from manifests.export import dmdnet, faceme, imagefolder, instantrestore, refldm, webdataset
from manifests.export.choose import SPLITS, Chosen, Wanted, choose
from manifests.export.folder import Folder, check_place, published
from manifests.ledger.ledger import Ledger
from manifests.runtime.files import config_hash
from manifests.runtime.progress import Report
from manifests.runtime.versions import code_version

CARD = "likeness_export.json"
VERSION = 1  # of the layouts


@dataclass(frozen=True)
class Format:
    """What a format takes and needs."""

    keep: Callable[[Chosen], Chosen]  # leaves out, with reasons, what has no place in it
    write: Callable[[Chosen, Folder], None]
    lq: str  # needed, taken, or none: it makes its own
    names: bool
    embeddings: bool
    cleaned: bool = False  # has a place to say of a picture that it is a cleaned version
    notice: str | None = None


# fmt: off
#                            what it keeps         how it is written      lq set    names  embed. cleaned
FORMATS: dict[str, Format] = {
    "refldm":         Format(refldm.keep,          refldm.write,          "taken",  False, False, False),
    "dmdnet":         Format(dmdnet.keep,          dmdnet.write,          "needed", False, False, False),
    "faceme":         Format(faceme.keep,          faceme.write,          "none",   False, True,  False, faceme.NOTICE),
    "instantrestore": Format(instantrestore.keep,  instantrestore.write,  "taken",  False, False, False),
    "imagefolder":    Format(imagefolder.keep,     imagefolder.write,     "taken",  True,  True,  True),
    "webdataset":     Format(webdataset.keep,      webdataset.write,      "taken",  True,  True,  True),
}
# fmt: on


@dataclass(frozen=True)
class Exported:
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


def export(
    dataset: Path, out: Path, name: str, wanted: Wanted, dry_run: bool = False, report: Report = lambda *_: None
) -> Exported:
    """Write `dataset` to `out` in the format `name`, whole or not at all; the same command again finds it done.

    Raises BadInput for what the format cannot take or has no place for, and for a folder that holds anything else;
    LedgerBroken where a picture is missing or broken.
    """
    kind = _checked(name, wanted)
    dataset, out = Path(dataset), Path(out)
    check_place(dataset, out)
    with Ledger.open(dataset) as ledger:
        chosen = kind.keep(choose(ledger, wanted))
    if not chosen.faces:
        raise BadInput(f"Nothing is left to export as {name}: {_listed(chosen) or 'no face is in these splits'}.")
    digest = _digest(name, chosen)
    card = _card(out)
    if card.get("hash") == digest and _intact(out, card):
        told = _told(name, out, chosen, kind, card["files"], card["bytes"], False)
        return dataclasses.replace(told, notices=(f"{out} holds this export already: nothing was written.",))
    if card.get("hash") == digest:
        raise BadInput(f"{out} holds this export no longer whole: remove it, then run the same command again.")
    if out.is_dir() and any(out.iterdir()):
        raise BadInput(f"--out {out} is not empty and is no export of this state: name a new or an empty folder.")
    sources = [*(face.picture for face in chosen.faces.values()), *chosen.lq.values()]
    size = sum(path.stat().st_size for path in sources if path.is_file())
    if dry_run:
        return _told(name, out, chosen, kind, 0, size, False)
    _check_room(out, size)
    with published(out, lambda done: report("export", done, len(sources))) as folder:
        kind.write(chosen, folder)
        facts = _facts(name, chosen, digest) | {"files": folder.files, "bytes": folder.bytes}
        folder.data(CARD, (json.dumps(facts, indent=2, sort_keys=True) + "\n").encode())
    return _told(name, out, chosen, kind, facts["files"], facts["bytes"], True)


def _checked(name: str, wanted: Wanted) -> Format:
    if name not in FORMATS:
        raise BadInput(f"--format {name}: say {', '.join(FORMATS)}.")
    kind = FORMATS[name]
    if wanted.lq_set is None and kind.lq == "needed":
        raise BadInput(f"{name} is a list of low-quality pictures: name a frozen set with --lq-set.")
    if wanted.lq_set is not None and kind.lq == "none":
        raise BadInput(f"{name} degrades its pictures itself: leave --lq-set out.")
    if wanted.names and not kind.names:
        raise BadInput(f"{name} has no place for names: leave --with-names out.")
    if wanted.version != "original" and not kind.cleaned:
        raise BadInput(f"{name} has no place to mark cleaned pictures: leave --version out, or say imagefolder.")
    if wanted.embeddings and not kind.embeddings:
        raise BadInput(f"{name} has no place for embeddings: leave --with-embeddings out.")
    return kind


def _check_room(out: Path, size: int) -> None:
    place = next(parent for parent in out.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(place).free
    if size > free:
        raise BadInput(
            f"{place} has {free / 2**30:.1f} GiB free and the export needs {size / 2**30:.1f}: name another --out."
        )


def _digest(name: str, chosen: Chosen) -> str:
    """The same for the same content, and other when a face, a reference, an option or a recorded fact changes."""
    faces = [(key, {**vars(face), "picture": None}) for key, face in sorted(chosen.faces.items())]
    told = {"cases": [vars(case) for case in chosen.cases], "lq": chosen.lq_sha256, "recognizer": chosen.recognizer}
    wanted = dataclasses.asdict(chosen.wanted)
    return config_hash({"format": name, "version": VERSION, "wanted": wanted, "faces": faces, **told})


def _facts(name: str, chosen: Chosen, digest: str) -> dict[str, Any]:
    """What lies beside the pictures: no path, no clock, nobody's name."""
    return {
        "format": name,
        "version": VERSION,
        "likeness": code_version(),
        "hash": digest,
        "options": dataclasses.asdict(chosen.wanted),
        "faces": len(chosen.faces),
        "targets": _targets(chosen),
        "left_out": _left_out(chosen),
        "split_policy": chosen.policy,
        "recognizer": chosen.recognizer or None,
        "cleaned": sum(face.told.get("version", "original") != "original" for face in chosen.faces.values()),
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


def _targets(chosen: Chosen) -> dict[str, int]:
    return {split: len(chosen.of_split(split)) for split in SPLITS if split in chosen.wanted.splits}


def _left_out(chosen: Chosen) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for (what, reason), count in sorted(chosen.left_out.items()):
        if count:
            found.setdefault(what, {})[reason] = count
    return found


def _listed(chosen: Chosen) -> str:
    counts = _left_out(chosen)
    return "; ".join(f"{what}: {', '.join(f'{n} {why}' for why, n in found.items())}" for what, found in counts.items())


def _told(name: str, out: Path, chosen: Chosen, kind: Format, files: int, size: int, written: bool) -> Exported:
    notices = [kind.notice] if kind.notice else []
    if chosen.policy == "photos":
        notices.append("The splits are of --split photos: the same person is in train and in test.")
    if chosen.wanted.version == "best":
        cleaned = [face for face in chosen.faces.values() if face.told["version"] != "original"]
        notices.append(
            f"{len(cleaned)} pictures are cleaned versions of training faces, marked by `version` and smaller than the "
            "others: pictures that a restorer made, no ground truth."
        )
    if chosen.embeddings:
        made = chosen.recognizer
        notices.append(f"Embeddings are biometric data: of {made.get('file')}, {made.get('dim')} numbers a face.")
    return Exported(
        name,
        str(out),
        len(chosen.faces),
        len({face.identity_id for face in chosen.faces.values()}),
        _targets(chosen),
        files,
        size,
        _left_out(chosen),
        tuple(notices),
        written,
    )
