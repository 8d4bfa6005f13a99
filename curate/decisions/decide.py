"""Decisions made: what a person says becomes rows of the log, and the people, splits and pairs follow at once.

Nothing is recorded that contradicts what was decided before, or joins people of two frozen splits. No face model is
loaded: the faces are grouped again from their recorded embeddings, as the last curation was told to.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from curate.config import CurateConfig, read_config
from curate.decisions.face_lookup import FaceLookup, single
from curate.imports.listed_faces import find_listed_splits
from curate.people.group import GroupRows, compute_groups, compute_names
from curate.people.near_duplicates import compute_near_duplicates
from curate.people.pairs import pair_faces
from curate.people.splits import check_splits, describe_split_changes, find_split_changes, make_splits, split_faces
from manifests.errors import BadInput
from manifests.ledger.decision_log import (
    MAX_NAME,
    PARTS,
    Decision,
    FaceFinder,
    FaceLocation,
    encode_faces,
    find_undos,
    find_unused_faces,
    parse_decision,
    read_decisions,
    select_active,
)
from manifests.ledger.ledger import Ledger, utc_now
from manifests.ledger.records import (
    NEAR_DUPLICATE,
    DecisionRow,
    Degradation,
    Face,
    Identity,
    ListEntry,
    Membership,
    Split,
)
from manifests.privacy.keys import ensure_key
from manifests.runtime.progress import Progress
from manifests.runtime.text import format_count

KINDS = tuple(PARTS)
_REPORTED = {"number", "made", "state", "missing"}  # written by `list --json`; only `number` is read, by undo
_LACKING = {
    "faces": "its faces",
    "to": "the person they are moved to: --to ID, or `to` in a file",
    "name": "the name: --name NAME, or `name` in a file",
    "sides": "its sides, two people or more",
    "undoes": "the number of the decision it undoes",
}


@dataclass(frozen=True)
class Outcome:
    """What decisions came to."""

    decisions: tuple[tuple[int, str, str], ...]  # number, kind, sentence
    moved: tuple[tuple[str, str | None, str | None], ...]  # face, identity before, identity after
    people: int  # identities there are now
    notices: tuple[str, ...]
    resplit: tuple[tuple[str, str, str], ...] = ()  # face, split before, split after, where a frozen set exists


@dataclass(frozen=True)
class LogEntry:
    """A decision of the log as it stands today."""

    act: Decision
    made: datetime
    undone_by: int | None
    missing: tuple[str, ...]  # why faces it names are not in use


def decide(
    dataset: Path, wanted: Sequence[Mapping[str, Any]], dry_run: bool = False, progress: Progress = lambda *_: None
) -> Outcome:
    """Make the decisions, all or none, and bring people, splits and pairs up to date.

    Each of `wanted` is a mapping as a line of the decisions file (docs/curate.md). Raises BadInput, with nothing
    recorded, for what cannot be read, for faces and people that are not there, for contradictions, and for people of
    two frozen splits made one.
    """
    with Ledger.open(dataset, write=not dry_run) as ledger:
        config, same_person = told(ledger)
        if not dry_run:
            ensure_key(ledger)
        log = read_decisions(ledger)
        faces, memberships = ledger.read_rows(Face), ledger.read_rows(Membership)
        new, said, skipped = _numbered(log, wanted, FaceLookup(faces, memberships))
        if not new:
            return Outcome((), (), len(ledger.read_rows(Identity)), tuple(skipped))
        decisions = tuple((act.number, act.kind, sentence) for act, sentence in zip(new, said, strict=True))
        if all(act.kind == "rename" for act in new):  # nobody moves, so nothing is grouped
            people, notices = compute_names(ledger, faces, [*log, *new])
            if not dry_run:
                ledger.record("decide", "all", {}, [*_rows(new), *people])
            return Outcome(decisions, (), len(people), (*skipped, *notices))
        _refuse_frozen(new, faces, ledger.read_rows(Split))
        changed: list[Face] = []
        if any(act.kind in ("drop", "undo") for act in new):
            _, changed = compute_near_duplicates(ledger, faces, [*log, *new], config, same_person)
            instead = {face.face_id: face for face in changed}
            faces = [instead.get(face.face_id, face) for face in faces]
        found = compute_groups(ledger, faces, [*log, *new], config, progress)
        resplit = _split_anew(ledger, config, faces, found)
        frozen = _still_frozen(ledger, [face.face_id for face in changed if face.status != "ok"])
        if not dry_run:
            ledger.record(
                "group",
                "all",
                config.group,
                [*_rows(new), *changed, *found.identities, *found.memberships],
                replace=(Identity, Membership),
                detail=found.detail,
            )
            split_faces(ledger, config)
            pair_faces(ledger, config)
        was = {row.face_id: row.identity_id for row in memberships}
        becomes = {row.face_id: row.identity_id for row in found.memberships}
        moved = tuple(
            (face, was.get(face), becomes.get(face))
            for face in sorted(was.keys() | becomes.keys())
            if was.get(face) != becomes.get(face)
        )
        return Outcome(
            decisions,
            moved,
            len(found.identities),
            (*skipped, *describe_split_changes(resplit), *frozen, *found.detail["notices"]),
            tuple((new.face_id, old.split, new.split) for old, new in resplit),
        )


def _rows(new: Sequence[Decision]) -> list[DecisionRow]:
    made = utc_now()
    return [DecisionRow(act.number, act.kind, json.dumps(encode_faces(act)), made, act.name, act.undoes) for act in new]


def read_log_entries(dataset: Path) -> list[LogEntry]:
    """The whole log, oldest first. Raises BadInput for a dataset that was never curated to its end."""
    with Ledger.open(dataset) as ledger:
        told(ledger)  # an older ledger's log lacks columns until it is curated again
        rows, faces = ledger.read_rows(DecisionRow), ledger.read_rows(Face)
    acts, finder = [parse_decision(row) for row in rows], FaceFinder(faces)
    back = find_undos(acts)
    found = []
    for act, row in zip(acts, rows, strict=True):
        gone = tuple(f"{one.photo_id[:12]}: {said}" for one, said in find_unused_faces(act, finder))
        found.append(LogEntry(act, row.made, back.get(act.number), gone))
    return found


def format_entry(entry: LogEntry) -> dict[str, Any]:
    """An entry as a line of the decisions file; a rebuilt dataset takes it with `decide --file`."""
    act = entry.act
    line: dict[str, Any] = {"number": act.number, "kind": act.kind}
    if act.kind != "undo":
        line |= encode_faces(act)
    if act.name is not None:
        line["name"] = act.name
    if act.undoes is not None:
        line["undoes"] = act.undoes
    state = "in force" if entry.undone_by is None else f"undone by {entry.undone_by}"
    return line | {"made": entry.made.isoformat(timespec="seconds"), "state": state, "missing": list(entry.missing)}


def read_decision_file(path: Path) -> list[dict[str, Any]]:
    """The decisions file: a JSON object a line, empty lines aside. Raises BadInput with the number of the line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise BadInput(f"{path} is not UTF-8 text: write JSON lines.") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}.") from None
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            told = json.loads(line)
        except ValueError as error:
            raise BadInput(f"{path}, line {number}: this is no JSON: {error}.") from None
        if not isinstance(told, dict):
            raise BadInput(f'{path}, line {number}: a line is an object such as {{"kind": "lock", "faces": [...]}}.')
        found.append({**told, "_where": f"{path}, line {number}: "})
    if not found:
        raise BadInput(f"{path} holds no decision.")
    return found


def told(ledger: Ledger) -> tuple[CurateConfig, float]:
    """What the last curation was told, and its recognizer's threshold."""
    noted = ledger.read_detail("settings")
    if not noted:
        raise BadInput(
            f"{ledger.dataset} was never curated to its end by this version: run `likeness curate PHOTOS --out "
            f"{ledger.dataset}` first."
        )
    return read_config(noted["config"]), float(noted["same_person"])


def _numbered(
    log: Sequence[Decision], wanted: Sequence[Mapping[str, Any]], namer: FaceLookup
) -> tuple[list[Decision], list[str], list[str]]:
    """Acts with the numbers they will have, a sentence for each, and one for each that is in the log already.

    An act is in the log already where the same one is in force and nobody has decided on its faces since, but for acts
    that are repeated too: a file that is applied again, with more lines or without, adds those lines alone.
    """
    read: list[list[tuple[Decision, str]]] = []
    numbers: set[int] = set()
    for told in wanted:
        with _where(told):
            if isinstance(own := told.get("number"), int):
                if own in numbers:
                    raise BadInput(f"The number {own} stands in another line too: give each line its own, or none.")
                numbers.add(own)
            read.append([] if told.get("kind") == "undo" else _acts(told, namer))
    repeated = {act for acts in read for act, _ in acts}
    held = {replace(act, number=0): act.number for act in select_active(log)}
    last = {place: number for act, number in held.items() if act not in repeated for place in _places(act)}

    new: list[Decision] = []
    sentences: list[str] = []
    skipped: list[str] = []
    given: dict[int, int] = {}  # number in the file -> number here
    fresh: set[tuple[str, tuple[float, ...]]] = set()
    number = max((act.number for act in log), default=0)
    for told, acts in zip(wanted, read, strict=True):
        with _where(told):
            own = told.get("number")
            for act, said in acts or [_undo(told, [*log, *new], given)]:
                there = held.get(act)
                if there is not None and not any(last.get(at, 0) > there or at in fresh for at in _places(act)):
                    skipped.append(f"Decision {there} says so already and is not recorded again: {act.kind}, {said}.")
                    given |= {own: there} if isinstance(own, int) else {}
                    continue
                number += 1
                new.append(replace(act, number=number))
                sentences.append(said)
                fresh |= _places(act)
                if act.kind == "undo":
                    held = {one: of for one, of in held.items() if of != act.undoes}
                given |= {own: number} if isinstance(own, int) else {}
    return new, sentences, skipped


@contextmanager
def _where(told: Mapping[str, Any]) -> Iterator[None]:
    """What is refused inside is said with the line of the file."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{told.get('_where', '')}{error}") from None


def _places(act: Decision) -> set[tuple[str, tuple[float, ...]]]:
    return {_place(named) for part in act.parts for named in part}


def _acts(told: Mapping[str, Any], namer: FaceLookup) -> list[tuple[Decision, str]]:
    """One wish as acts (a split of faces of several people is one act a person), each with what it says."""
    kind = _kind(told)
    if kind == "merge":
        if not isinstance(told["sides"], list) or len(told["sides"]) < 2:
            raise BadInput("A merge needs two people or more.")
        sides = tuple(namer.person(side) for side in told["sides"])
        if len({frozenset(map(_place, side)) for side in sides}) < len(sides):
            raise BadInput("A merge needs people who are two now; these are one already. To keep them so, say lock.")
        return [(Decision(0, kind, sides), f"{' and '.join(_counted(side) for side in sides)} are one person")]
    if kind == "split":
        return _split(told, namer)
    faces = namer.faces(told["faces"], whole=kind in ("rename", "lock"))
    if kind == "move":
        to = namer.person(told["to"])
        if set(map(_place, faces)) <= set(map(_place, to)):
            raise BadInput(
                "A move needs faces of somebody else; these are that person's already. To keep them so, say lock."
            )
        if "rest" in told:
            rest = namer.others(told["rest"], [*faces, *to])
            if told["rest"] and not rest:
                raise BadInput("A move takes faces from others than those it names: say another rest, or none.")
        else:
            aim = {namer.identity(one) for one in to[:1] if namer.has_identity(one)}
            own = sorted({namer.identity(one) for one in faces if namer.has_identity(one)} - aim)
            rest = single(one for identity in own for one in namer.rest([*faces, *to], identity))
        return [(Decision(0, kind, (faces, to, rest)), f"{_counted(faces)} to the person of {_counted(to)}")]
    if kind == "rename":
        name = told["name"]
        if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name.strip()) > MAX_NAME:
            raise BadInput(f"A rename needs a name, on one line and of at most {MAX_NAME} characters.")
        return [
            (Decision(0, kind, (faces,), name.strip()), f"the person of {_counted(faces)} is called {name.strip()}")
        ]
    does = {"drop": "not to be used", "lock": "held as one person, whom nobody who was somebody else joins"}
    return [(Decision(0, kind, (faces,)), f"{_counted(faces)} {does[kind]}")]


def _kind(told: Mapping[str, Any]) -> str:
    """The kind of a wish that has all it needs and nothing more."""
    kind = told.get("kind")
    if kind is None:
        raise BadInput(f"A decision needs a kind: say {', '.join(KINDS)}.")
    if not isinstance(kind, str) or kind not in KINDS:
        raise BadInput(f"There is no decision {kind!r}: say {', '.join(KINDS)}.")
    parts = ("sides",) if kind == "merge" else PARTS[kind]
    extra = {"rename": {"name"}, "undo": {"undoes"}}.get(kind, set())
    if strange := sorted(set(told) - _REPORTED - {"kind", "_where", *parts, *extra}):
        raise BadInput(f"A {kind} has no {strange[0]}.")
    if lacking := [part for part in (*parts, *sorted(extra)) if part != "rest" and part not in told]:
        raise BadInput(f"A {kind} needs {_LACKING[lacking[0]]}.")
    return kind


def _split(told: Mapping[str, Any], namer: FaceLookup) -> list[tuple[Decision, str]]:
    faces = namer.faces(told["faces"])
    if "rest" in told:
        sides = [(faces, namer.others(told["rest"], faces))]
    else:
        of: dict[str, list[FaceLocation]] = defaultdict(list)
        for one in faces:
            of[namer.identity(one)].append(one)
        sides = [(tuple(own), namer.rest(own, identity)) for identity, own in sorted(of.items())]
    if any(not rest for _, rest in sides):
        raise BadInput("A split names some faces of a person, not all: nobody would be left to split them from.")
    return [
        (Decision(0, "split", side), f"{_counted(side[0])} apart from the person of {_counted(side[1])}")
        for side in sides
    ]


def _undo(told: Mapping[str, Any], log: Sequence[Decision], given: Mapping[int, int]) -> tuple[Decision, str]:
    _kind(told)
    said = told["undoes"]
    if not isinstance(said, int) or isinstance(said, bool):
        raise BadInput("An undo needs the number of a decision; `likeness decide DATASET list` shows them.")
    number = given.get(said, said)
    kinds = {act.number: act.kind for act in log}
    if number not in kinds:
        raise BadInput(f"There is no decision {number}: `likeness decide DATASET list` shows them.")
    back = find_undos(log)
    if number in back:
        raise BadInput(f"Decision {number} is taken back already, by {back[number]}; undo {back[number]} restores it.")
    return Decision(0, "undo", undoes=number), f"decision {number} ({kinds[number]}) is taken back"


def _place(named: FaceLocation) -> tuple[str, tuple[float, ...]]:
    """The face, whether it is named or a witness."""
    return named.photo_id, named.box


def _counted(faces: Sequence[FaceLocation]) -> str:
    return f"{format_count(len(faces), 'face')} ({faces[0].photo_id[:8]}{', ...' * (len(faces) > 1)})"


def _refuse_frozen(new: Sequence[Decision], faces: Sequence[Face], splits: Sequence[Split]) -> None:
    """People of two frozen splits cannot be made one."""
    stands = {face.face_id: face.duplicate_of or face.face_id for face in faces}
    frozen = {stands.get(row.face_id): row for row in splits if row.locked and row.policy == "identity"}
    finder = FaceFinder(faces)
    for act in new:
        if act.kind not in ("merge", "move"):
            continue
        seen: dict[str, Split] = {}
        for named in (one for part in (act.parts if act.kind == "merge" else act.parts[:2]) for one in part):
            face, _ = finder.find(named)
            row = frozen.get(face.duplicate_of or face.face_id) if face is not None else None
            if row is not None:
                seen[row.split] = row
        if len(seen) > 1:
            (one, first), (other, second) = sorted(seen.items())[:2]
            raise BadInput(
                f"Not decided: {first.identity_id} is in the frozen {one} split and {second.identity_id} in the frozen "
                f"{other} split, and as one person they would leak from one to the other: start a new dataset for that."
            )


def _split_anew(
    ledger: Ledger, config: CurateConfig, faces: Sequence[Face], found: GroupRows
) -> list[tuple[Split, Split]]:
    """The rows of faces that will change their split; what the splits refuse is refused before anything is recorded."""
    kept = [face for face in faces if face.status == "ok" or face.reason == NEAR_DUPLICATE]
    before = ledger.read_rows(Split)
    try:
        listed, _ = find_listed_splits(ledger.read_rows(ListEntry), kept)
        rows = make_splits(kept, found.memberships, before, config.split, listed)
        check_splits(kept, rows)
    except BadInput as error:
        raise BadInput(f"Not decided: {error}") from None
    return find_split_changes(before, rows)


def _still_frozen(ledger: Ledger, left: Sequence[str]) -> list[str]:
    """What is to be told of faces that leave while frozen sets hold images of them."""
    gone = set(left)
    sets = sorted({row.lq_set for row in ledger.read_rows(Degradation) if row.face_id in gone})
    faces = {row.face_id for row in ledger.read_rows(Degradation) if row.face_id in gone}
    if not faces:
        return []
    sets_said = ", ".join(f"lq/{name}" for name in sets)
    leave = "leaves" if len(faces) == 1 else "leave"
    return [
        f"Frozen sets keep their images of {format_count(len(faces), 'face')} that {leave} the dataset: {sets_said}."
    ]
