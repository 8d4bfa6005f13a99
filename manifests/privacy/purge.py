"""A person or a photo is taken out of a dataset with all that was made of them, and it is proved that nothing is left.

plan      what there is: photos, copies of them, their faces, crops, images, embeddings, runs, benchmarks
journal   DATASET/purge.pending: a purge that is killed is finished by the next call, and nothing else opens the dataset
rows      one transaction; what must be remembered is an HMAC under the dataset's own key
files     crops, embeddings, low-quality images, report, snapshots, sheets, pages, results by face, benchmarks
ledger    written into a new file and renamed
proof     every file of the dataset and of the runs, every row of the ledger
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from manifests.card import write_card
from manifests.errors import LedgerError
from manifests.ledger.decision_log import encode_faces, parse_decision
from manifests.ledger.ledger import Deletion, DetailUpdate, Ledger, rewrite_ledger, utc_now
from manifests.ledger.paths import PENDING_NAME
from manifests.ledger.records import DecisionRow, File, KeptOutMark, Label, ListEntry, Purge, Record
from manifests.privacy.erase import plan_erasure, remove_files
from manifests.privacy.keys import compute_mark, ensure_key, hide_uri, read_key
from manifests.privacy.proof import Proof, Traces, search_traces
from manifests.privacy.purge_plan import PurgePlan
from manifests.privacy.run_cleanup import remove_faces_from_runs
from manifests.runtime.files import remove_temporary_files, write_atomically
from manifests.runtime.uris import display_path

_TELLING = ("notices", "label_doubts", "labels_parted")  # in what the stages label and group noted


@dataclass(frozen=True)
class PurgeResult:
    """What was taken away, and the proof."""

    plan: PurgePlan
    removed: Mapping[str, int]
    proof: Proof


def read_unfinished_plan(dataset: Path) -> PurgePlan | None:
    """The purge that was stopped before its end; None where none was."""
    path = dataset / PENDING_NAME
    if not path.is_file():
        return None
    try:
        told = json.loads(path.read_bytes())
        lists: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in told.items()
        }
        lists["traces"] = Traces(**{name: tuple(value) for name, value in told["traces"].items()})
        return PurgePlan(**lists)
    except (OSError, ValueError, TypeError, KeyError):
        raise LedgerError(f"{path} is broken: remove it and say again whom to purge.") from None


def purge(dataset: Path, plan: PurgePlan, say: Callable[[str], None] = lambda _: None) -> PurgeResult:
    """Do what was planned, or finish what was begun, and prove it. Raises LedgerError where something is left that is
    not Likeness's to remove; the purge then stays unfinished until it is gone."""
    with Ledger.open(dataset, write=True, finishing=True) as ledger:
        ensure_key(ledger)
        write_atomically(dataset / PENDING_NAME, json.dumps(asdict(plan)).encode())
        (dataset / PENDING_NAME).chmod(0o600)
        _forget(ledger, plan)
        remove_files(ledger, plan.faces)
    folders = [dataset, *(Path(run) for run in plan.runs)]
    gone = remove_faces_from_runs(folders, plan.faces, plan.people)
    if (report := dataset / "report" / "index.html").is_file():
        report.unlink()
        gone["reports"] += 1
    remove_temporary_files(dataset)
    write_card(dataset, finishing=True)
    rewrite_ledger(dataset)
    say("Looking for what might be left.")
    proof = search_traces(dataset, plan.traces, folders[1:], skip=[dataset / PENDING_NAME])
    if proof.remains:
        more = f" and {len(proof.remains) - 5} more" if len(proof.remains) > 5 else ""
        raise LedgerError(
            f"Something is left that Likeness did not make: {'; '.join(proof.remains[:5])}{more}. Remove it, then "
            f"`likeness manifest purge {dataset}` finishes."
        )
    counts = {"photos": len(plan.photos), "files": len(plan.uris), "faces": len(plan.faces)}
    counts |= {"people": len(plan.people), "low-quality images": plan.lq_images, "targets": plan.targets, **gone}
    counts |= {"kept out": len(plan.kept_out), "checkpoints trained on them": len(plan.checkpoints)}
    removed = {what: n for what, n in counts.items() if n}
    with Ledger.open(dataset, write=True, finishing=True) as ledger:
        number = 1 + max((row.purge_id for row in ledger.read_rows(Purge)), default=0)
        if plan.photos:
            ledger.record("purge", str(number), {}, [Purge(number, utc_now(), json.dumps(removed, sort_keys=True))])
    (dataset / PENDING_NAME).unlink()
    write_card(dataset)
    return PurgeResult(plan, removed, proof)


def _forget(ledger: Ledger, plan: PurgePlan) -> None:
    """The rows of one purge, in one transaction; again, it finds nothing to do."""
    key, made = read_key(ledger), utc_now()
    there = {row.mark for row in ledger.read_rows(KeptOutMark)}
    marks = [compute_mark(key, "photo", photo) for photo in (*plan.photos, *plan.kept_out)]
    rows: list[Record] = [KeptOutMark(one, "photo", plan.reason, made) for one in marks if one not in there]
    for row in ledger.read_rows(ListEntry):
        if row.refs is not None and row.photo_id not in plan.photos and set(row.refs) & set(plan.photos):
            rows.append(replace(row, refs=tuple(ref for ref in row.refs if ref not in plan.photos)))
    rows += [File(hide_uri(key, uri), None, None, None, "dropped", plan.reason) for uri in plan.uris]
    found = plan_erasure(ledger, plan.faces)
    found.write_shards(ledger.dataset)
    decisions, undone = _decisions(ledger, set(plan.photos))
    deletions: list[Deletion] = [
        *found.deletions,
        ("faces", "face_id", plan.faces),
        ("photos", "photo_id", plan.photos),
        ("labels", "photo_id", plan.photos),
        ("list_entries", "photo_id", plan.photos),
        ("files", "uri", plan.uris),
        ("stages", "unit", [*plan.photos, *plan.uris]),
        ("decisions", "decision_id::VARCHAR", [str(number) for number in undone]),
    ]
    details = [*found.details, *_scrubbed(ledger, plan)]
    ledger.record("purge", "rows", {}, [*found.rows, *rows, *decisions], delete=deletions, details=details)


def _decisions(ledger: Ledger, photos: set[str]) -> tuple[list[DecisionRow], list[int]]:
    """Decisions without the faces of these photos; and the numbers of those that say nothing any more, with their
    undos."""
    changed: list[DecisionRow] = []
    empty: set[int] = set()
    for row in ledger.read_rows(DecisionRow):
        act = parse_decision(row)
        parts = tuple(tuple(named for named in part if named.photo_id not in photos) for part in act.parts)
        if parts == act.parts:
            continue
        sides = [part for part in parts if part]
        if (act.kind == "merge" and len(sides) > 1) or (act.kind != "merge" and parts[0]):
            told = encode_faces(replace(act, parts=tuple(sides) if act.kind == "merge" else parts))
            changed.append(DecisionRow(row.decision_id, row.kind, json.dumps(told), row.made, row.name, row.undoes))
        else:
            empty.add(row.decision_id)
    while more := {r.decision_id for r in ledger.read_rows(DecisionRow) if r.undoes in empty} - empty:
        empty |= more
    return [row for row in changed if row.decision_id not in empty], sorted(empty)


def _scrubbed(ledger: Ledger, plan: PurgePlan) -> list[DetailUpdate]:
    """What labels and grouping noted, without the entries that name what goes: ids may be cut, files lack folders."""
    labels = ledger.read_rows(Label)
    left = {row.label for row in labels if row.photo_id not in plan.photos}
    names = {one[:12] for one in (*plan.photos, *plan.faces)} | {*plan.people, *plan.uris}
    names |= {display_path(uri).name for uri in plan.uris} | ({row.label for row in labels} - left)
    found: list[DetailUpdate] = []
    rows = ledger.query("SELECT stage, unit, config_hash, detail FROM stages WHERE stage IN ('label', 'group')").rows()
    for stage, unit, hashed, detail in rows:
        noted = json.loads(detail) if detail else {}
        kept = {key: _without(value, names) if key in _TELLING else value for key, value in noted.items()}
        if kept != noted:
            found.append((stage, unit, hashed, kept))
    return found


def _without(told: Any, names: set[str]) -> Any:
    """JSON without the entries of lists and mappings that hold one of the names."""
    if isinstance(told, dict):
        return {key: _without(value, names) for key, value in told.items() if not any(name in key for name in names)}
    if isinstance(told, list):
        texts = [json.dumps(one, ensure_ascii=False) for one in told]
        return [one for one, text in zip(told, texts, strict=True) if not any(name in text for name in names)]
    return told
