"""What opting photos out removes and keeps out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from manifests.errors import BadInput
from manifests.ledger.ledger import Ledger
from manifests.privacy.erase import OPTED_OUT
from manifests.privacy.purge_plan import PurgePlan, plan_purge
from manifests.runtime.archives import is_archive
from manifests.runtime.files import sha256_file


def read_photo_list(file: Path) -> list[str]:
    """A photo a line: a path, or the sha256 of its bytes. Raises BadInput where it cannot be read or names none."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"--photo-list {file} cannot be read as text ({error.__class__.__name__}): name a file."
        ) from None
    found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not found:
        raise BadInput(f"--photo-list {file} names no photo: write a path or a sha256 on each line.")
    return found


def plan_optout(dataset: Path, photos: Sequence[str], runs: Sequence[Path] = ()) -> PurgePlan:
    """What opting these photos out takes: those that are in the dataset go as by a purge, the others are kept out.

    Each is the sha256 of a file's bytes, a file, or what the dataset knows a photo by. Raises BadInput for the rest.
    """
    inside: list[str] = []
    outside: set[str] = set()
    with Ledger.open(dataset) as ledger:
        known = set(ledger.query("SELECT photo_id FROM photos")["photo_id"])
    for told in photos:
        path = Path(told)
        if re.fullmatch(r"[0-9a-fA-F]{64}", told):
            sha256 = told.lower()
        elif path.is_file():
            with path.open("rb") as file:
                if is_archive(file.read(512)):
                    raise BadInput(f"{path} is an archive: name each photo in it, as {path.name}/PHOTO, or its sha256.")
            sha256 = sha256_file(path)
        else:
            inside.append(told)
            continue
        if sha256 in known:
            inside.append(sha256)
        else:
            outside.add(sha256)
    plan = plan_purge(dataset, (), inside, runs, OPTED_OUT)
    return replace(plan, kept_out=tuple(sorted(outside)))
