"""Tests that a decision takes back as little as possible of older decisions."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import combinations, product
from typing import Any

import pytest

from curate.config import CurateConfig
from curate.decisions.record import Desk, make_rows
from curate.decisions.settings import read_curation_settings
from curate.people.constraints.links import Links, resolve_links
from curate.people.group import compute_groups
from manifests.ledger.decisions.decision_log import Decision, change_locations, encode_faces, parse_decision
from manifests.ledger.ledger import Ledger
from tests.doubles.curation import curated_album, install, name_faces
from tests.doubles.review.desk import copy_desk, list_people, read_desk_of, record

Requests = list[dict[str, Any]]
Pairs = set[tuple[str, str]]
Made = tuple[Ledger, CurateConfig, Desk, dict[str, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Yields the ledger, settings and desk of four people with four photos each, and a dict that maps a face to the
    name of the person in its photo. No test changes them.
    """
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        _, dataset = curated_album(tmp_path_factory.mktemp("chains"), people=4, each=4)
    desk, face = read_desk_of(dataset), name_faces(dataset)
    with Ledger.open(dataset) as ledger:
        yield ledger, read_curation_settings(ledger)[0], desk, {one: name[0] for name, one in face.items()}


def locate(desk: Desk, face: str) -> dict[str, Any]:
    """Returns a location. A decision that names a face by its location does not name the person of the face."""
    place = desk.lookup.locate(face)
    return {"photo": place.photo_id, "box": list(place.box)}


def resolve(desk: Desk) -> tuple[list[str], Links]:
    """Returns the faces in use, and the constraints of the log on these faces."""
    faces = sorted(desk.people.identity_of)
    return faces, resolve_links(desk.people.log, list(desk.people.faces.values()), faces)


def list_apart(desk: Desk) -> Pairs:
    """Returns the pairs of faces that the log keeps apart. The first face of a pair has the smaller id."""
    faces, links = resolve(desk)
    pairs = [(faces[a], faces[b]) for leaving, staying in links.separations for a in leaving for b in staying]
    return {(min(pair), max(pair)) for pair in pairs}


def draw_requests(desk: Desk, rng: random.Random, shown: dict[str, str]) -> Requests:
    """Returns a random request. `shown` maps a face to the name of the person in the photo.

    All faces of a split show one person. Only a grouping could divide faces of several people.
    """
    people = sorted(person for person, faces in desk.people.members.items() if faces)
    if len(people) < 2:
        return []
    person, other = rng.sample(people, 2)
    own = desk.people.members[person]
    faces = [face for face in own if shown[face] == shown[own[0]]]
    faces = rng.sample(faces, min(len(faces), rng.choice((1, 1, 2, 3))))
    kind = rng.choice(("move", "move", "split", "split", "merge", "apart", "join", "join"))
    if kind == "join":  # joins two faces that the log keeps apart, but not the other faces of their people
        apart = sorted(pair for pair in list_apart(desk) if len({desk.people.identity_of[face] for face in pair}) == 2)
        if not apart:
            return []
        one, two = rng.sample(rng.choice(apart), 2)
        return [{"kind": "merge", "sides": [[locate(desk, one)], [locate(desk, two)]]}]
    if kind == "split":
        return [{"kind": kind, "faces": faces}] if len(faces) < len(own) else []
    if kind == "move":
        return [{"kind": kind, "faces": faces, "to": other}]
    return [{"kind": kind, "sides": [person, other]}]


def regroup(ledger: Ledger, config: CurateConfig, desk: Desk, batches: list[list[Decision]]) -> set[frozenset[str]]:
    """Returns the people that the next `likeness curate` makes of the log. Nothing is written."""
    faces = list(desk.people.faces.values())
    groups = compute_groups(ledger, faces, desk.people.log, config, lambda *_: None, batches[:-1])
    own: dict[str, set[str]] = {}
    for row in groups.memberships:
        own.setdefault(row.identity_id, set()).add(row.face_id)
    return {frozenset(faces) for faces in own.values()}


def are_all_decided(desk: Desk, shown: dict[str, str]) -> bool:
    """Returns whether the decisions alone say who belongs together, so that the next grouping finds the same people.

    Two people who look alike must be apart, and people who look different must be one person because of decisions.
    """
    apart, people = list_apart(desk), list_people(desk)
    faces, links = resolve(desk)
    block = dict(zip(faces, links.block.tolist(), strict=True))

    def look(one: frozenset[str]) -> set[str]:
        return {shown[face] for face in one}

    return all(len(look(one)) == 1 or len({block[face] for face in one}) == 1 for one in people) and all(
        one == two or not look(one) & look(two) or any((min(a, b), max(a, b)) in apart for a in one for b in two)
        for one in people
        for two in people
    )


@pytest.mark.parametrize("seed", range(20, 40))
def test_a_chain_of_decisions_takes_back_only_what_it_contradicts(made: Made, seed: int):
    ledger, config, start, shown = made
    rng, desk, file = random.Random(seed), copy_desk(start), copy_desk(start)
    batches: list[list[Decision]] = []
    chain: Requests = []
    for _ in range(rng.randint(3, 6)):
        before = list_apart(desk)
        requests = draw_requests(desk, rng, shown)
        if not requests or [one["kind"] for one in [*chain[-1:], *requests]] == ["split", "split"]:
            continue  # two successive splits in one file of decisions also keep their faces apart
        chain += requests
        batches.append(record(desk, requests))
        # A pair of faces is no longer apart in only two cases: the faces are one person now, or a newer split or move
        # names one of the faces.
        faces, links = resolve(desk)
        block = dict(zip(faces, links.block.tolist(), strict=True))
        named = {face for request in requests for face in request.get("faces", ())}
        assert all(block[one] == block[other] or {one, other} & named for one, other in before - list_apart(desk))
        if are_all_decided(desk, shown):
            assert regroup(ledger, config, desk, batches) == list_people(desk)
    record(file, chain)
    assert list_people(file) == list_people(desk)
    assert list(map(parse_decision, make_rows(desk.people.log))) == desk.people.log


def test_faces_that_a_merge_does_not_name_stay_apart(made: Made):
    _, _, start, shown = made
    desk = copy_desk(start)
    a, b, c, d = sorted(face for face, name in shown.items() if name == "0")
    others = {faces for faces in list_people(start) if a not in faces}
    record(desk, [{"kind": "split", "faces": [a, b]}])
    states = [list_people(desk)]
    lines = [{"kind": "merge", "sides": [[locate(desk, a)], [locate(desk, c)]]}]
    lines += [{"kind": "merge", "sides": [[locate(desk, b)], [locate(desk, c)]]}]
    for line in lines:
        record(desk, [line])
        states.append(list_people(desk))
    assert states[1] == {frozenset((a, c)), frozenset((b,)), frozenset((d,)), *others}
    assert states[2] == {frozenset((a, b, c)), frozenset((d,)), *others}
    for number, state in ((3, states[1]), (2, states[0])):
        record(desk, [{"kind": "undo", "undoes": number}])
        assert list_people(desk) == state
    # the written log gives the same people, and a purge of a photo removes its faces from `takes_back`
    log = copy_desk(start)
    record(log, [{"number": one.number, "kind": one.kind, **encode_faces(one)} for one in desk.people.log[:3]])
    assert list_people(log) == states[2]
    photo = desk.lookup.locate(c).photo_id
    left = [change_locations(one, lambda face: None if face.photo_id == photo else face) for one in desk.people.log[:3]]
    assert [one.takes_back for one in left] == [(), (), ()]


def test_each_merge_of_single_faces_keeps_the_other_faces_of_three_people_apart(made: Made):
    _, _, start, shown = made
    desk = copy_desk(start)
    names = sorted({name for name in shown.values() if list(shown.values()).count(name) > 1})[:3]
    sides = [sorted(face for face, name in shown.items() if name == one)[:2] for one in names]
    record(desk, [{"kind": "apart", "sides": [[locate(desk, face) for face in side] for side in sides]}])
    (a, _), (b, _), (c, _) = sides
    for one, other in ((a, b), (a, c)):
        record(desk, [{"kind": "merge", "sides": [[locate(desk, one)], [locate(desk, other)]]}])
    pairs = {(min(pair), max(pair)) for x, y in combinations(sides, 2) for pair in product(x, y)}
    assert list_apart(desk) == {pair for pair in pairs if set(pair) - {a, b, c}}
