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
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from manifests.card import write_card
from manifests.errors import BadInput, LedgerError
from manifests.ledger.cleaned_targets import versions_of
from manifests.ledger.decision_log import faces_told, read_act
from manifests.ledger.ledger import Forget, Ledger, NewDetail, now, rewrite
from manifests.ledger.paths import PENDING_NAME, crop_path, shard_path
from manifests.ledger.records import Decision, Face, File, Given, KeptOut, Label, Membership, Purge, Record
from manifests.privacy.erase import erasure, remove_files
from manifests.privacy.keys import ensure_key, hidden_uri, key_of, mark
from manifests.privacy.proof import Searched, Wanted, inside_of, search
from manifests.privacy.run_cleanup import clean, look
from manifests.runtime.files import sha256_bytes, sweep, write_atomically
from manifests.runtime.text import printable
from manifests.runtime.uris import place_of, uri_of

PURGED, OPTED_OUT = "purged", "opted_out"
_TELLING = ("notices", "label_doubts", "labels_parted")  # in what the stages label and group noted
_PREFIX = 6  # characters that begin an id, as in manifests/why.py


@dataclass(frozen=True)
class Plan:
    """What a purge takes away; empty where nothing of it is there any more."""

    reason: str
    photos: tuple[str, ...] = ()
    kept_out: tuple[str, ...] = ()  # photos that were never in, to be kept out
    uris: tuple[str, ...] = ()
    faces: tuple[str, ...] = ()
    people: tuple[str, ...] = ()  # identities of whom nobody is left
    others: int = 0  # faces of other people in the same photos, who go along
    images: int = 0  # low-quality images
    pairs: int = 0
    checkpoints: tuple[str, ...] = ()  # trained on them; weights cannot be cleaned
    runs: tuple[str, ...] = ()  # folders outside the dataset
    wanted: Wanted = field(default_factory=Wanted)


@dataclass(frozen=True)
class Purged:
    """What was taken away, and the proof."""

    plan: Plan
    removed: Mapping[str, int]
    proof: Searched


def plan_purge(
    dataset: Path,
    people: Sequence[str] = (),
    photos: Sequence[str] = (),
    runs: Sequence[Path] = (),
    reason: str = PURGED,
) -> Plan:
    """What would be taken away; nothing is written.

    `people` are identity ids, their beginnings, or names; `photos` paths, file names, or the beginning of a hash. A
    photo that shows a person goes whole, and copies that dedupe found go with it. Raises BadInput for what the dataset
    does not know, or knows several of; what is kept out already is no error.
    """
    if missing := [run for run in runs if not run.is_dir()]:
        raise BadInput(f"--run {missing[0]} is no folder: name a training run or a benchmark.")
    with Ledger.open(dataset) as ledger:
        faces, members = ledger.rows(Face), ledger.rows(Membership)
        named = _named(ledger, people)
        shown = {row.face_id for row in members if row.identity_id in named}
        wanted = {face.photo_id for face in faces if face.face_id in shown or face.duplicate_of in shown}
        wanted |= {photo for told in photos for photo in _photo(ledger, told)}
        return _plan(ledger, _with_copies(ledger, faces, wanted), named, runs, reason)


def _named(ledger: Ledger, told: Sequence[str]) -> set[str]:
    """The ids of these people. Raises BadInput for one whom the dataset does not know, or knows several of."""
    names = dict(ledger.query("SELECT identity_id, name FROM identities ORDER BY 1").iter_rows())
    chosen = set()
    for one in told:
        fits = [person for person, name in names.items() if one in (person, name)]
        fits = fits or [person for person in names if len(one) >= _PREFIX and person.startswith(one)]
        if len(fits) != 1:
            raise BadInput(
                f"{ledger.dataset} has {len(fits) or 'no'} people {printable(one)}: name one by its id, "
                "`likeness manifest why` tells it of a photo."
            )
        chosen.add(fits[0])
    return chosen


def _photo(ledger: Ledger, told: str) -> set[str]:
    """The photo that is meant; empty where it was taken out before. Raises BadInput where there is none, or several."""
    found: set[str] = set()
    exact: set[str] = set()
    for uri, photo in ledger.query("SELECT uri, photo_id FROM files WHERE photo_id IS NOT NULL").iter_rows():
        path = place_of(uri)
        if uri == uri_of(told):
            exact.add(photo)
        elif told == path.name or (os.sep in told and str(path).endswith(os.sep + told)):
            found.add(photo)
    found = exact or found
    if not found and re.fullmatch(rf"[\w-]{{{_PREFIX},}}", told, re.ASCII):
        found = set(ledger.query("SELECT photo_id FROM photos WHERE starts_with(photo_id, ?)", told)["photo_id"])
    if len(found) == 1:
        return found
    if found:
        raise BadInput(
            f"{ledger.dataset} holds {len(found)} photos {printable(told)}: say more of the path, or the hash."
        )
    if kept_out_as(ledger, told) is not None:
        return set()
    raise BadInput(
        f"{ledger.dataset} holds no photo {printable(told)}, and there is no such file: look at `likeness manifest "
        "why`. `likeness manifest optout` takes a file that was never in, or all 64 characters of its sha256."
    )


def kept_out_as(ledger: Ledger, told: str) -> str | None:
    """The reason for which a file, or a photo by its whole hash, is kept out; None where it is not."""
    key = key_of(ledger)
    names = [hidden_uri(key, uri_of(told)), mark(key, "photo", told)]
    if Path(told).is_file():
        names.append(mark(key, "photo", sha256_bytes(Path(told).read_bytes())))
    for table, column in (("files", "uri"), ("kept_out", "mark")):
        if not ledger.has(table):
            continue
        hit = ledger.query(f"SELECT reason FROM {table} WHERE list_contains(?, {column})", names)["reason"]
        if len(hit):
            return str(hit[0])
    return None


def _with_copies(ledger: Ledger, faces: Sequence[Face], photos: set[str]) -> set[str]:
    """The photos, and those with the same pictures again: as dedupe found, or by embedding and hash of a face."""
    photo_of = {face.face_id: face.photo_id for face in faces}
    links: dict[str, set[str]] = {}
    for face in faces:
        if face.duplicate_of is not None:
            one, other = face.photo_id, photo_of[face.duplicate_of]
            links.setdefault(one, set()).add(other)
            links.setdefault(other, set()).add(one)
    found, todo = set(photos), list(photos)
    while todo:
        for other in links.get(todo.pop(), set()) - found:
            found.add(other)
            todo.append(other)
    gone = {(vector, face.phash) for face, vector in _vectors(ledger, [f for f in faces if f.photo_id in found])}
    rest = [face for face in faces if face.photo_id not in found and face.shard is not None]
    twins = {face.photo_id for face, vector in _vectors(ledger, rest) if (vector, face.phash) in gone}
    return _with_copies(ledger, faces, found | twins) if twins else found


def _vectors(ledger: Ledger, faces: Iterable[Face]) -> Iterator[tuple[Face, str]]:
    """Faces with the bytes of their embeddings in hex, a shard at a time."""
    within: dict[str, list[Face]] = {}
    for face in faces:
        if face.shard is not None and face.shard_row is not None:
            within.setdefault(face.shard, []).append(face)
    for shard, members in sorted(within.items()):
        try:
            vectors = np.asarray(np.load(shard_path(ledger.dataset, shard)), np.float32)
        except (OSError, ValueError, EOFError):
            continue
        for face in members:
            if (row := face.shard_row or 0) < len(vectors):
                yield face, vectors[row].tobytes().hex()


def _plan(ledger: Ledger, photos: set[str], named: Collection[str], runs: Sequence[Path], reason: str) -> Plan:
    faces = {face.face_id: face for face in ledger.rows(Face) if face.photo_id in photos}
    members = ledger.rows(Membership)
    left = {row.identity_id for row in members if row.face_id not in faces}
    inside = {row.identity_id for row in members if row.face_id in faces}
    identities = {row.face_id: row.identity_id for row in members}
    gone = sorted(faces)
    uris = [row.uri for row in ledger.rows(File) if row.photo_id in photos]
    images = list(ledger.query("SELECT lq_set, face_id FROM degradations WHERE list_contains(?, face_id)", gone).rows())
    pairs = ledger.query("SELECT target FROM pairs WHERE list_contains(?, target)", gone)
    dataset = ledger.dataset
    held = look([dataset, *runs], faces)
    pictures = [crop_path(dataset, face) for face in gone]
    pictures += [dataset / "lq" / name / f"{face}.png" for name, face in images]
    pictures += [path for face in gone for path in versions_of(dataset, face)]
    data = [path.read_bytes() for path in pictures if path.is_file()]
    wholly = sorted(inside - left)
    return Plan(
        reason,
        photos=tuple(sorted(photos)),
        uris=tuple(sorted(uris)),
        faces=tuple(gone),
        people=tuple(wholly),
        others=sum(identities[face] not in named for face in gone if face in identities) if named else 0,
        images=len(images),
        pairs=len(pairs),
        checkpoints=tuple(sorted({path for one in held for path in one.checkpoints})),
        runs=tuple(str(path.absolute()) for path in runs),
        wanted=Wanted(
            photos=tuple(sorted(photos)),
            faces=tuple(gone),
            people=tuple(wholly),
            uris=tuple(sorted(uris)),
            pictures=tuple(sorted({sha256_bytes(one) for one in data})),
            inside=tuple(sorted({inside_of(one) for one in data} - {""})),
            embeddings=tuple(_embeddings(ledger, faces)),
            pixels=tuple(sorted({pixel for one in held for pixel in one.pixels})),
        ),
    )


def _embeddings(ledger: Ledger, gone: Collection[str]) -> list[str]:
    """The embeddings of these faces that are no other face's as well."""
    faces = ledger.rows(Face)
    own = {vector for _, vector in _vectors(ledger, [face for face in faces if face.face_id in gone])}
    return sorted(
        own - {vector for _, vector in _vectors(ledger, [f for f in faces if f.face_id not in gone]) if vector in own}
    )


def unfinished(dataset: Path) -> Plan | None:
    """The purge that was stopped before its end; None where none was."""
    path = dataset / PENDING_NAME
    if not path.is_file():
        return None
    try:
        told = json.loads(path.read_bytes())
        lists: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in told.items()
        }
        lists["wanted"] = Wanted(**{name: tuple(value) for name, value in told["wanted"].items()})
        return Plan(**lists)
    except (OSError, ValueError, TypeError, KeyError):
        raise LedgerError(f"{path} is broken: remove it and say again whom to purge.") from None


def purge(dataset: Path, plan: Plan, say: Callable[[str], None] = lambda _: None) -> Purged:
    """Do what was planned, or finish what was begun, and prove it. Raises LedgerError where something is left that is
    not Likeness's to remove; the purge then stays unfinished until it is gone."""
    with Ledger.open(dataset, write=True, finishing=True) as ledger:
        ensure_key(ledger)
        write_atomically(dataset / PENDING_NAME, json.dumps(asdict(plan)).encode())
        (dataset / PENDING_NAME).chmod(0o600)
        _forget(ledger, plan)
        remove_files(ledger, plan.faces)
    folders = [dataset, *(Path(run) for run in plan.runs)]
    gone = clean(folders, plan.faces, plan.people)
    if (report := dataset / "report" / "index.html").is_file():
        report.unlink()
        gone["reports"] += 1
    sweep(dataset)
    write_card(dataset, finishing=True)
    rewrite(dataset)
    say("Looking for what might be left.")
    proof = search(dataset, plan.wanted, folders[1:], skip=[dataset / PENDING_NAME])
    if proof.found:
        more = f" and {len(proof.found) - 5} more" if len(proof.found) > 5 else ""
        raise LedgerError(
            f"Something is left that Likeness did not make: {'; '.join(proof.found[:5])}{more}. Remove it, then "
            f"`likeness manifest purge {dataset}` finishes."
        )
    counts = {"photos": len(plan.photos), "files": len(plan.uris), "faces": len(plan.faces)}
    counts |= {"people": len(plan.people), "low-quality images": plan.images, "targets": plan.pairs, **gone}
    counts |= {"kept out": len(plan.kept_out), "checkpoints trained on them": len(plan.checkpoints)}
    removed = {what: n for what, n in counts.items() if n}
    with Ledger.open(dataset, write=True, finishing=True) as ledger:
        number = 1 + max((row.purge_id for row in ledger.rows(Purge)), default=0)
        if plan.photos:
            ledger.record("purge", str(number), {}, [Purge(number, now(), json.dumps(removed, sort_keys=True))])
    (dataset / PENDING_NAME).unlink()
    write_card(dataset)
    return Purged(plan, removed, proof)


def _forget(ledger: Ledger, plan: Plan) -> None:
    """The rows of one purge, in one transaction; again, it finds nothing to do."""
    key, made = key_of(ledger), now()
    there = {row.mark for row in ledger.rows(KeptOut)}
    marks = [mark(key, "photo", photo) for photo in (*plan.photos, *plan.kept_out)]
    rows: list[Record] = [KeptOut(one, "photo", plan.reason, made) for one in marks if one not in there]
    for row in ledger.rows(Given):
        if row.refs is not None and row.photo_id not in plan.photos and set(row.refs) & set(plan.photos):
            rows.append(replace(row, refs=tuple(ref for ref in row.refs if ref not in plan.photos)))
    rows += [File(hidden_uri(key, uri), None, None, None, "dropped", plan.reason) for uri in plan.uris]
    found = erasure(ledger, plan.faces)
    found.write_shards(ledger.dataset)
    decisions, undone = _decisions(ledger, set(plan.photos))
    forget: list[Forget] = [
        *found.forget,
        ("faces", "face_id", plan.faces),
        ("photos", "photo_id", plan.photos),
        ("labels", "photo_id", plan.photos),
        ("given", "photo_id", plan.photos),
        ("files", "uri", plan.uris),
        ("stages", "unit", [*plan.photos, *plan.uris]),
        ("decisions", "decision_id::VARCHAR", [str(number) for number in undone]),
    ]
    details = [*found.details, *_scrubbed(ledger, plan)]
    ledger.record("purge", "rows", {}, [*found.rows, *rows, *decisions], forget=forget, details=details)


def _decisions(ledger: Ledger, photos: set[str]) -> tuple[list[Decision], list[int]]:
    """Decisions without the faces of these photos; and the numbers of those that say nothing any more, with their
    undos."""
    changed: list[Decision] = []
    empty: set[int] = set()
    for row in ledger.rows(Decision):
        act = read_act(row)
        parts = tuple(tuple(named for named in part if named.photo_id not in photos) for part in act.parts)
        if parts == act.parts:
            continue
        sides = [part for part in parts if part]
        if (act.kind == "merge" and len(sides) > 1) or (act.kind != "merge" and parts[0]):
            told = faces_told(replace(act, parts=tuple(sides) if act.kind == "merge" else parts))
            changed.append(Decision(row.decision_id, row.kind, json.dumps(told), row.made, row.name, row.undoes))
        else:
            empty.add(row.decision_id)
    while more := {r.decision_id for r in ledger.rows(Decision) if r.undoes in empty} - empty:
        empty |= more
    return [row for row in changed if row.decision_id not in empty], sorted(empty)


def _scrubbed(ledger: Ledger, plan: Plan) -> list[NewDetail]:
    """What labels and grouping noted, without the entries that name what goes: ids may be cut, files lack folders."""
    labels = ledger.rows(Label)
    left = {row.label for row in labels if row.photo_id not in plan.photos}
    names = {one[:12] for one in (*plan.photos, *plan.faces)} | {*plan.people, *plan.uris}
    names |= {place_of(uri).name for uri in plan.uris} | ({row.label for row in labels} - left)
    found: list[NewDetail] = []
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
