"""Writes the records of the exported frozen set. With these records, the low-quality images can be made again."""

from __future__ import annotations

import json
from pathlib import Path

from manifests.errors import LedgerBroken
from manifests.export.output_folder import OutputFolder
from manifests.export.selection import Selection
from manifests.runtime.files import sha256_bytes

RECORDS = "likeness_set"  # folder of the records in an export


def write_frozen_records(selection: Selection, dataset: Path, folder: OutputFolder) -> None:
    """Writes theta.jsonl and card.json of the exported frozen set. theta.jsonl has a line for each exported image.

    `likeness degrade EXPORT --replay EXPORT/likeness_set/theta.jsonl --out FOLDER` makes the images again, byte for
    byte. Without a frozen set, nothing is written. Raises LedgerBroken if the files of the set are missing or broken.
    """
    name = selection.options.lq_set
    if name is None or not selection.lq:
        return
    place = dataset / "lq" / name
    try:
        lines = (place / "theta.jsonl").read_bytes().splitlines(keepends=True)
        kept = b"".join(line for line in lines if Path(json.loads(line)["file"]).stem in selection.lq)
        card = json.loads((place / "card.json").read_bytes())
    except (OSError, ValueError, KeyError, TypeError):
        raise LedgerBroken(
            f"{place} has no readable theta.jsonl and card.json. Run the `likeness degrade` command that made this set "
            "again."
        ) from None
    paths = {"source": "..", "source_encoded": ".."}
    card |= {"images": kept.count(b"\n"), "theta_sha256": sha256_bytes(kept), **paths}
    folder.add_bytes(f"{RECORDS}/theta.jsonl", kept)
    folder.add_bytes(f"{RECORDS}/card.json", (json.dumps(card, indent=2, sort_keys=True) + "\n").encode())
