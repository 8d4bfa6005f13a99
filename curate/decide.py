"""Decisions made: what a person says becomes rows of the log, and the people, splits and pairs follow at once.

Nothing is recorded that contradicts what was decided before, or joins people of two frozen splits. No face model is
loaded: the faces are grouped again from their recorded embeddings, as the last curation was told to.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from curate.config import CurateConfig, config_from
from curate.decisions import PARTS, Act, Finder, NamedFace, faces_told, read_act, taken_back
from curate.dedupe import REASON as NEAR_DUPLICATE
from curate.naming import Namer, single
from curate.people import Grouped, deduped, grouped, pair, renamed, split
from curate.splits import check_splits, make_splits
from manifests.errors import BadInput
from manifests.ledger import Ledger, now
from manifests.progress import Report
from manifests.records import Decision, Face, Identity, Membership, Split

KINDS = tuple(PARTS)
_REPORTED = {"number", "made", "state", "missing"}  # written by `list --json`; only `number` is read, by undo


@dataclass(frozen=True)
class Made:
    """What decisions came to."""

    decisions: tuple[tuple[int, str, str], ...]  # number, kind, sentence
    moved: tuple[tuple[str, str | None, str | None], ...]  # face, identity before, identity after
    people: int  # identities there are now
    notices: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """A decision of the log as it stands today."""

    act: Act
    made: datetime
    undone_by: int | None
    missing: tuple[str, ...]  # why faces it names are not in use


def decide(
    dataset: Path, wanted: Sequence[Mapping[str, Any]], dry_run: bool = False, report: Report = lambda *_: None
) -> Made:
    """Make the decisions, all or none, and bring people, splits and pairs up to date.

    Each of `wanted` is a mapping as a line of the decisions file (docs/curate.md). Raises BadInput, with nothing
    recorded, for what cannot be read, for faces and people that are not there, for contradictions, and for people of
    two frozen splits made one.
    """
    with Ledger.open(dataset, write=not dry_run) as ledger:
        config, same_person = told(ledger)
        log = [read_act(row) for row in ledger.rows(Decision)]
        faces, memberships = ledger.rows(Face), ledger.rows(Membership)
        new, said = _numbered(log, wanted, Namer(faces, memberships))
        decisions = tuple((act.number, act.kind, sentence) for act, sentence in zip(new, said, strict=True))
        if new and all(act.kind == "rename" for act in new):  # nobody moves, so nothing is grouped
            people, notices = renamed(ledger, faces, [*log, *new])
            if not dry_run:
                ledger.record("decide", "all", {}, [*_rows(new), *people])
            return Made(decisions, (), len(people), tuple(notices))
        _refuse_frozen(new, faces, ledger.rows(Split))
        changed: list[Face] = []
        if any(act.kind in ("drop", "undo") for act in new):
            _, changed = deduped(ledger, faces, [*log, *new], config, same_person)
            instead = {face.face_id: face for face in changed}
            faces = [instead.get(face.face_id, face) for face in faces]
        found = grouped(ledger, faces, [*log, *new], config, report)
        _refuse_leaks(ledger, config, faces, found)
        if not dry_run:
            ledger.record(
                "group",
                "all",
                config.group,
                [*_rows(new), *changed, *found.identities, *found.memberships],
                replace=(Identity, Membership),
                detail=found.detail,
            )
            split(ledger, config)
            pair(ledger, config)
        was = {row.face_id: row.identity_id for row in memberships}
        becomes = {row.face_id: row.identity_id for row in found.memberships}
        moved = tuple(
            (face, was.get(face), becomes.get(face))
            for face in sorted(was.keys() | becomes.keys())
            if was.get(face) != becomes.get(face)
        )
        return Made(decisions, moved, len(found.identities), tuple(found.detail["notices"]))


def _rows(new: Sequence[Act]) -> list[Decision]:
    made = now()
    return [Decision(act.number, act.kind, json.dumps(faces_told(act)), made, act.name, act.undoes) for act in new]


def entries(dataset: Path) -> list[Entry]:
    """The whole log, oldest first. Raises BadInput for a dataset that was never curated to its end."""
    with Ledger.open(dataset) as ledger:
        told(ledger)  # an older ledger's log lacks columns until it is curated again
        rows, faces = ledger.rows(Decision), ledger.rows(Face)
    acts, finder = [read_act(row) for row in rows], Finder(faces)
    back = taken_back(acts)
    found = []
    for act, row in zip(acts, rows, strict=True):
        why = [finder.find(named)[1] for part in act.parts for named in part]
        gone = [] if act.kind == "drop" else [f"{one.photo_id[:12]}: {said}" for one, said in _each(act, why) if said]
        found.append(Entry(act, row.made, back.get(act.number), tuple(gone)))
    return found


def _each(act: Act, why: Sequence[str]) -> list[tuple[NamedFace, str]]:
    return list(zip((named for part in act.parts for named in part), why, strict=True))


def line_of(entry: Entry) -> dict[str, Any]:
    """An entry as a line of the decisions file; a rebuilt dataset takes it with `decide --file`."""
    act = entry.act
    line: dict[str, Any] = {"number": act.number, "kind": act.kind}
    if act.kind != "undo":
        line |= faces_told(act)
    if act.name is not None:
        line["name"] = act.name
    if act.undoes is not None:
        line["undoes"] = act.undoes
    state = "in force" if entry.undone_by is None else f"undone by {entry.undone_by}"
    return line | {"made": entry.made.isoformat(timespec="seconds"), "state": state, "missing": list(entry.missing)}


def read_lines(path: Path) -> list[dict[str, Any]]:
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
    noted = ledger.detail("told")
    if not noted:
        raise BadInput(
            f"{ledger.dataset} was never curated to its end by this version: run `likeness curate PHOTOS --into "
            f"{ledger.dataset}` first."
        )
    return config_from(noted["config"]), float(noted["same_person"])


def _numbered(log: Sequence[Act], wanted: Sequence[Mapping[str, Any]], namer: Namer) -> tuple[list[Act], list[str]]:
    """Acts with the numbers they will have, and a sentence for each."""
    new: list[Act] = []
    sentences: list[str] = []
    given: dict[int, int] = {}  # number in the file -> number here
    for told in wanted:
        where = told.get("_where", "")
        try:
            number = max((act.number for act in [*log, *new]), default=0) + 1
            for act, said in _acts(told, namer, [*log, *new], given):
                new.append(replace(act, number=number))
                sentences.append(said)
                number += 1
            if isinstance(told.get("number"), int):
                given[told["number"]] = number - 1
        except BadInput as error:
            raise BadInput(f"{where}{error}") from None
    return new, sentences


def _acts(told: Mapping[str, Any], namer: Namer, log: Sequence[Act], given: Mapping[int, int]) -> list[tuple[Act, str]]:
    """One wish as acts (a split of faces of several people is one act a person), each with what it says."""
    kind = told.get("kind")
    if kind not in KINDS:
        raise BadInput(f"There is no decision {kind!r}: say {', '.join(KINDS)}.")
    parts = ("sides",) if kind == "merge" else PARTS[kind]
    extra = {"rename": {"name"}, "undo": {"undoes"}}.get(kind, set())
    if strange := sorted(set(told) - _REPORTED - {"kind", "_where", *parts, *extra}):
        raise BadInput(f"A {kind} has no {strange[0]}.")
    if lacking := [part for part in (*parts, *sorted(extra)) if part != "rest" and part not in told]:
        raise BadInput(f"A {kind} needs {lacking[0]}.")
    if kind == "undo":
        return [_undo(told["undoes"], log, given)]
    if kind == "merge":
        if not isinstance(told["sides"], list) or len(told["sides"]) < 2:
            raise BadInput("A merge needs two people or more.")
        sides = tuple(namer.person(side) for side in told["sides"])
        if len({frozenset(map(_place, side)) for side in sides}) < len(sides):
            raise BadInput("A merge needs people who are two now; these are one already. To keep them so, say lock.")
        return [(Act(0, kind, sides), f"{' and '.join(_counted(side) for side in sides)} are one person")]
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
        return [(Act(0, kind, (faces, to, rest)), f"{_counted(faces)} to the person of {_counted(to)}")]
    if kind == "rename":
        name = told["name"]
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise BadInput("A rename needs a name, on one line.")
        return [(Act(0, kind, (faces,), name.strip()), f"the person of {_counted(faces)} is called {name.strip()}")]
    does = {"drop": "not to be used", "lock": "held as one person, whom nobody who was somebody else joins"}
    return [(Act(0, kind, (faces,)), f"{_counted(faces)} {does[kind]}")]


def _split(told: Mapping[str, Any], namer: Namer) -> list[tuple[Act, str]]:
    faces = namer.faces(told["faces"])
    if "rest" in told:
        sides = [(faces, namer.others(told["rest"], faces))]
    else:
        of: dict[str, list[NamedFace]] = defaultdict(list)
        for one in faces:
            of[namer.identity(one)].append(one)
        sides = [(tuple(own), namer.rest(own, identity)) for identity, own in sorted(of.items())]
    if any(not rest for _, rest in sides):
        raise BadInput("A split names some faces of a person, not all: nobody would be left to split them from.")
    return [
        (Act(0, "split", side), f"{_counted(side[0])} apart from the person of {_counted(side[1])}") for side in sides
    ]


def _undo(said: object, log: Sequence[Act], given: Mapping[int, int]) -> tuple[Act, str]:
    if not isinstance(said, int) or isinstance(said, bool):
        raise BadInput("An undo needs the number of a decision; `likeness decide DATASET list` shows them.")
    number = given.get(said, said)
    kinds = {act.number: act.kind for act in log}
    if number not in kinds:
        raise BadInput(f"There is no decision {number}: `likeness decide DATASET list` shows them.")
    back = taken_back(log)
    if number in back:
        raise BadInput(f"Decision {number} is taken back already, by {back[number]}; undo {back[number]} restores it.")
    return Act(0, "undo", undoes=number), f"decision {number} ({kinds[number]}) is taken back"


def _place(named: NamedFace) -> tuple[str, tuple[float, ...]]:
    """The face, whether it is named or a witness."""
    return named.photo_id, named.box


def _counted(faces: Sequence[NamedFace]) -> str:
    return f"{len(faces)} face{'s' if len(faces) != 1 else ''} ({faces[0].photo_id[:8]}{', ...' * (len(faces) > 1)})"


def _refuse_frozen(new: Sequence[Act], faces: Sequence[Face], splits: Sequence[Split]) -> None:
    """People of two frozen splits cannot be made one."""
    stands = {face.face_id: face.duplicate_of or face.face_id for face in faces}
    frozen = {stands.get(row.face_id): row for row in splits if row.locked and row.policy == "identity"}
    finder = Finder(faces)
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


def _refuse_leaks(ledger: Ledger, config: CurateConfig, faces: Sequence[Face], found: Grouped) -> None:
    """What the splits would refuse is refused before anything is recorded."""
    kept = [face for face in faces if face.status == "ok" or face.reason == NEAR_DUPLICATE]
    locked = [row for row in ledger.rows(Split) if row.locked]
    try:
        check_splits(kept, make_splits(kept, found.memberships, locked, config.split))
    except BadInput as error:
        raise BadInput(f"Not decided: {error}") from None
