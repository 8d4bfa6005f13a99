"""Removes people, photos and all data that was made of them from a dataset, and proves that nothing is left.

A purge takes these steps:

(1) A plan lists all data to remove (manifests/privacy/purge_plan.py). (2) The plan is written to the file
DATASET/purge.pending, the journal. While this file exists, other commands refuse the dataset. (3) The rows of the plan
are removed from the ledger in one transaction. Only marks of the photos and faces stay in the ledger
(manifests/privacy/keys.py). (4) Crops, embeddings, low-quality images and the report are removed. The faces are removed
from runs and benchmarks. (5) The ledger is copied into a new file, because a DuckDB file keeps the bytes of deleted
rows. (6) The proof searches every file of the dataset and of the runs, and every row of the ledger. (7) If the dataset
has a copy in a store, the ledger is copied again, and the proof searches the copy. (8) The journal is removed.

If a purge was killed, or if the store failed, the next `likeness manifest purge DATASET` reads the plan in the journal
and finishes the purge.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from manifests.card import write_card
from manifests.errors import LedgerError
from manifests.ledger.connection import rewrite_ledger
from manifests.ledger.decisions.decision_log import CONSENT_KIND, SIDED, change_locations, encode_faces, parse_decision
from manifests.ledger.ledger import Deletion, Ledger, utc_now
from manifests.ledger.paths import PENDING_NAME
from manifests.ledger.records import DecisionRow, File, Identity, Label, ListEntry, Photo, Purge, Record
from manifests.ledger.store_copy import copy_to_store
from manifests.privacy.erase import find_report_pages, plan_erasure, remove_files
from manifests.privacy.keys import ensure_key, hide_uri, read_key
from manifests.privacy.names_in_details import list_removed_texts, remove_names_from_details
from manifests.privacy.picture_marks import make_kept_out_rows
from manifests.privacy.proof import Proof, Traces, search_store, search_traces
from manifests.privacy.purge_plan import PurgePlan
from manifests.privacy.run_cleanup import remove_faces_from_runs
from manifests.runtime.files import remove_temporary_files, write_atomically
from manifests.runtime.uris import display_path

# The reason of a drop, which the user wrote, may contain a name. A name with fewer characters than this number (ours)
# must be a whole word of the reason, because many words contain "ed" or "ann".
SHORT = 4


@dataclass(frozen=True)
class PurgeResult:
    """The numbers of items that a purge removed, and the proof that nothing is left."""

    plan: PurgePlan
    removed: Mapping[str, int]  # maps a noun, such as "photos", to the number of removed items
    proof: Proof


def read_unfinished_plan(dataset: Path) -> PurgePlan | None:
    """Returns the plan of an unfinished purge, or None without such a purge.

    Raises LedgerError if the plan cannot be read.
    """
    path = dataset / PENDING_NAME
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes())
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
        }
        fields["kept_out"] = tuple(tuple(hashes) for hashes in content["kept_out"])
        fields["traces"] = Traces(**{name: tuple(value) for name, value in content["traces"].items()})
        return PurgePlan(**fields)
    except (OSError, ValueError, TypeError, KeyError):
        raise LedgerError(
            f"{path} cannot be read. Remove the file, then purge the same people and photos again."
        ) from None


def purge(dataset: Path, plan: PurgePlan, say: Callable[[str], None] = lambda _: None) -> PurgeResult:
    """Remove everything in the plan, and prove that nothing is left. `plan` can be the plan of an unfinished purge.

    Calls `say` with a sentence when the search for traces begins, and with each notice about the copy in a store.
    Raises LedgerError if a trace is left in a file that Likeness did not make. The purge then stays unfinished until
    the user removes this file and repeats the purge. Raises StoreError if the store fails. The purge then stays
    unfinished until it is repeated.
    """
    # journal and rows
    with Ledger.open(dataset, write=True, during_purge=True) as ledger:
        ensure_key(ledger)
        number = plan.purge_id or 1 + max((row.purge_id for row in ledger.read_rows(Purge)), default=0)
        plan = replace(plan, purge_id=number)
        write_atomically(dataset / PENDING_NAME, json.dumps(asdict(plan)).encode())
        (dataset / PENDING_NAME).chmod(0o600)
        _remove_rows(ledger, plan)
        remove_files(ledger, plan.faces)
    # files
    folders = [dataset, *(Path(run) for run in plan.runs)]
    run_counts = remove_faces_from_runs(folders, plan.faces, plan.people)
    for page in find_report_pages(dataset):
        page.unlink()
        run_counts["reports"] += page.name == "index.html"
    remove_temporary_files(dataset)
    # ledger
    write_card(dataset, during_purge=True)
    rewrite_ledger(dataset)
    # proof
    say("Likeness is searching for traces that might be left.")
    proof = search_traces(dataset, plan.traces, folders[1:], skip=[dataset / PENDING_NAME])
    if proof.remains:
        more = f" and {len(proof.remains) - 5} more" if len(proof.remains) > 5 else ""
        raise LedgerError(
            f"Traces are left in files that Likeness did not make: {'; '.join(proof.remains[:5])}{more}. Remove these "
            f"files, then run `likeness manifest purge {dataset}` to finish the purge."
        )
    counts = {"photos": len(plan.photos), "files": len(plan.uris), "faces": len(plan.faces)}
    counts |= {"people": len(plan.people), "low-quality images": plan.lq_images, "targets": plan.targets, **run_counts}
    removed = {noun: count for noun, count in counts.items() if count}
    with Ledger.open(dataset, write=True, during_purge=True) as ledger:
        if plan.photos:
            ledger.record("purge", str(number), {}, [Purge(number, utc_now(), json.dumps(removed, sort_keys=True))])
    write_card(dataset, during_purge=True)
    # store
    for notice in copy_to_store(dataset, during_purge=True):
        say(notice)
    proof = search_store(dataset, plan.traces, proof)
    if proof.remains:
        raise LedgerError(
            f"Traces are left in the store: {'; '.join(proof.remains[:5])}. Remove these files from the store, then "
            f"run `likeness manifest purge {dataset}` to finish the purge."
        )
    (dataset / PENDING_NAME).unlink()
    return PurgeResult(plan, removed, proof)


def _remove_rows(ledger: Ledger, plan: PurgePlan) -> None:
    """In one transaction, remove the rows of the plan's photos and faces, and record the marks that keep the photos
    out.

    A second call with the same plan does not change the ledger.
    """
    key, time = read_key(ledger), utc_now()
    outside = [Photo(name, 0, 0, "", phash256=phash256, samples=samples) for name, samples, phash256 in plan.kept_out]
    rows: list[Record] = [*make_kept_out_rows(ledger, key, plan.photos, outside, plan.reason, time)]
    # in imported lists, remove these photos from the references of other photos
    for row in ledger.read_rows(ListEntry):
        if row.refs is not None and row.photo_id not in plan.photos and set(row.refs) & set(plan.photos):
            rows.append(replace(row, refs=tuple(ref for ref in row.refs if ref not in plan.photos)))
    rows += [File(hide_uri(key, uri), None, None, None, "dropped", plan.reason) for uri in plan.uris]
    erasure = plan_erasure(ledger, plan.faces)
    erasure.write_shards(ledger.dataset)
    own_labels = [row for row in ledger.read_rows(Label) if row.photo_id in plan.photos]
    ids, names = [*plan.photos, *plan.faces], {*plan.people, *plan.uris, *(display_path(uri).name for uri in plan.uris)}
    texts = list_removed_texts(ledger, ids, names | _find_names_of_people(ledger, plan), own_labels)
    decisions, empty_decisions = _shrink_decisions(ledger, set(plan.photos), texts)
    deletions: list[Deletion] = [
        *erasure.deletions,
        ("faces", "face_id", plan.faces),
        ("photos", "photo_id", plan.photos),
        ("labels", "photo_id", plan.photos),
        ("list_entries", "photo_id", plan.photos),
        ("files", "uri", plan.uris),
        ("stages", "unit", [*plan.photos, *plan.uris]),
        ("decisions", "decision_id::VARCHAR", [str(number) for number in empty_decisions]),
    ]
    details = [*erasure.details, *remove_names_from_details(ledger, ids, names, own_labels)]
    ledger.record("purge", "rows", {}, [*erasure.rows, *rows, *decisions], delete=deletions, details=details)


def _find_names_of_people(ledger: Ledger, plan: PurgePlan) -> set[str]:
    """Returns the names of the purged people, including names that later decisions replaced."""
    names = {row.name for row in ledger.read_rows(Identity) if row.identity_id in plan.people and row.name}
    for row in ledger.read_rows(DecisionRow, "kind = 'rename'"):
        if row.name and all(face.photo_id in plan.photos for face in parse_decision(row).parts[0]):
            names.add(row.name)
    return names


def _shrink_decisions(ledger: Ledger, photos: set[str], texts: set[str]) -> tuple[list[DecisionRow], list[int]]:
    """Removes these photos and their faces from decisions.

    A drop loses its reason if the reason contains one of `texts`. Returns the changed decisions that stay, and the
    numbers of the decisions to delete. A decision is deleted if none of its photos or too few of its faces are left, or
    if it undoes a deleted decision.
    """
    changes: list[DecisionRow] = []
    empty: set[int] = set()
    for row in ledger.read_rows(DecisionRow):
        act = parse_decision(row)
        left = change_locations(act, lambda face: None if face.photo_id in photos else face)
        parts, taken_back = left.parts, left.takes_back
        rest = tuple(photo for photo in act.photos if photo not in photos)
        name = None if act.kind == "drop" and _contains(row.name, texts) else row.name
        if (parts, rest, name, taken_back) == (act.parts, act.photos, row.name, act.takes_back):
            continue
        if act.kind in SIDED:
            parts = tuple(part for part in parts if part)
            is_empty = len(parts) < 2  # the decision needs faces of two people
        else:
            is_empty = not (rest if act.kind == CONSENT_KIND else parts[0])
        if not is_empty:
            faces = encode_faces(replace(act, parts=parts, photos=rest, takes_back=taken_back))
            changes.append(replace(row, faces=json.dumps(faces), name=name))
        else:
            empty.add(row.decision_id)
    while undos := {row.decision_id for row in ledger.read_rows(DecisionRow) if row.undoes in empty} - empty:
        empty |= undos
    return [row for row in changes if row.decision_id not in empty], sorted(empty)


def _contains(text: str | None, parts: set[str]) -> bool:
    """Returns whether a text contains one of `parts`. Small and capital letters count as equal.

    A part with fewer than SHORT characters must be a whole word of the text.
    """
    if text is None:
        return False
    return any(
        re.search(rf"(?<![^\W\d_]){re.escape(part)}(?![^\W\d_])" if len(part) < SHORT else re.escape(part), text, re.I)
        for part in parts
    )
