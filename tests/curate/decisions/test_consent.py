"""Tests the decision `consent`: what is hidden at once, what is erased when it is applied, and what can come back."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import pytest

import curate.decisions.decide
import manifests.privacy.erase
from curate.decisions.decide import apply_decisions_of, decide
from curate.decisions.log_entries import format_entry, read_log_entries
from curate.decisions.record import record_decisions
from degrade.frozen.dataset_sets import make_set
from manifests.check import check_ledger
from manifests.errors import BadInput
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.ledger.records import DecisionRow, Degradation, Face, File, Membership, Photo
from manifests.privacy.purge import purge
from manifests.privacy.purge_plan import plan_purge
from manifests.report.build_report import build_report
from manifests.why.explain_photo import explain_photo
from tests.doubles.curation import album, contents, curated, files, install, photo, rows, save
from tests.doubles.review.client import review_dataset
from tests.places import SHARED, Run

BOTH, COPY = "both.png", "copies/small.png"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with `photos` and `dataset`. One photo shows two people, and one photo has a smaller copy."""
    folder = tmp_path_factory.mktemp("consent")
    photos = album(folder / "photos", people=5, each=3)
    save(photos / BOTH, photo([0, 1], 9))
    save(photos / COPY, cv2.resize(photo([2], 0), None, fx=0.75, fy=0.75, interpolation=3))
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        curated(photos, folder / "dataset")
    make_set(folder / "dataset", "codeformer", "train", 0, 32, workers=1)
    return folder


@pytest.fixture
def dataset(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install(monkeypatch)
    return Path(shutil.copytree(original / "dataset", tmp_path / "dataset"))


def find_photos(dataset: Path) -> dict[str, str]:
    """Returns a dict that maps the name of each file below the folder of photos to the id of its photo."""
    return {row.uri.split("/photos/")[1]: str(row.photo_id) for row in rows(dataset, File) if row.photo_id is not None}


def find_faces(dataset: Path, name: str) -> list[Face]:
    photo_id = find_photos(dataset)[name]
    return [row for row in rows(dataset, Face) if row.photo_id == photo_id]


def find_person(dataset: Path, name: str) -> str:
    (face,) = find_faces(dataset, name)
    return next(row.identity_id for row in rows(dataset, Membership) if row.face_id == face.representative)


def set_consent(value: str, *ids: str) -> dict[str, Any]:
    return {"kind": "consent", "photos": list(ids), "consent": value}


def strip(dataset: Path, *tables: str) -> dict[str, list]:
    return {name: table for name, table in contents(dataset).items() if name not in ("stages", *tables)}


def read_consents(dataset: Path, name: str) -> tuple[str | None, str | None, str, str | None]:
    photo_id = find_photos(dataset)[name]
    (row,) = [row for row in rows(dataset, Photo) if row.photo_id == photo_id]
    return row.consent, row.sidecar_consent, row.status, row.reason


def test_a_refusal_erases_the_faces_of_a_photo_and_an_undo_brings_them_back(
    original: Path, dataset: Path, tmp_path: Path, command: Run
):
    twin = Path(shutil.copytree(dataset, tmp_path / "twin"))
    both, with_copy = find_photos(dataset)[BOTH], find_photos(dataset)["person2/0.png"]
    faces = [*find_faces(dataset, BOTH), *find_faces(dataset, "person2/0.png")]
    frozen = {row.face_id for row in rows(dataset, Degradation)} & {face.face_id for face in faces}
    names = (both[:8], find_faces(dataset, "person2/0.png")[0].face_id)
    tried = command("decide", dataset, "consent", *names, "--consent", "no", "--dry-run")
    assert tried.returncode == 0 and strip(dataset) == strip(twin)
    done = command("decide", dataset, "consent", *names, "--consent", "no")
    assert done.returncode == 0 and "2 photos with 3 faces may not be used any more" in done.stdout
    assert done.stdout.splitlines()[1:] == tried.stdout.splitlines()[1:]  # the dry run printed the same lines
    assert "1 copy of photos without consent stays in use" in done.stdout and COPY in done.stdout
    assert frozen and "This frozen set loses images: lq/codeformer-train-32-s0." in done.stdout
    for face in faces:
        assert not crop_path(dataset, face.face_id).exists() and not list((dataset / "lq").rglob(f"{face.face_id}.png"))
    assert {face.reason for face in rows(dataset, Face) if face.photo_id in (both, with_copy)} == {"no_consent"}
    assert [face.status for face in find_faces(dataset, COPY)] == ["ok"] and check_ledger(dataset) == []
    assert explain_photo(dataset, BOTH)[0][1].endswith(": dropped, no_consent, consent no (decision 1)")

    # Acts in the browser give the same ledger, although they are recorded first and applied later.
    with review_dataset(twin) as review:
        said = review.decide(set_consent("no", *names))
        assert said["notices"][0].startswith("1 copy of photos without consent stays in use, because the consent for")
        assert read_consents(twin, BOTH) == ("no", None, "ok", None) and crop_path(twin, faces[0].face_id).exists()
    assert strip(twin) == strip(dataset) and files(twin) == files(dataset)

    undone = command("decide", dataset, "undo", 1)
    assert "2 photos may be used again. Their faces come back with the next `likeness curate`." in undone.stdout
    assert read_consents(dataset, BOTH) == (None, None, "ok", None) and check_ledger(dataset) == []
    curated(original / "photos", dataset)
    before, after = ({row.face_id: row.status for row in rows(one, Face)} for one in (original / "dataset", dataset))
    assert before == after and check_ledger(dataset) == []
    assert '<td class="wrap">consent no for 2 photos</td>' in build_report(dataset).read_text()


def test_an_undo_before_the_decision_is_applied_loses_nothing(original: Path, dataset: Path):
    person = find_person(dataset, "person2/1.png")
    with review_dataset(dataset) as review:
        people = review.session.read().people
        shown = {name: list(own) for name, own in people.members.items()}
        said = review.decide(set_consent("withdrawn", person, find_photos(dataset)[BOTH]))
        assert said["sentence"] == "The consent is withdrawn."
        assert person not in people.members and len(people.members) == 4
        review.act(act="undo")
        assert {name: list(own) for name, own in people.members.items()} == shown
        review.act(act="redo")
        assert person not in people.members
        review.act(act="undo")
        # The copy's face is represented by a face that the refusal has already dropped. A drop of the copy's face drops
        # the representative again, and two undos still bring everything back.
        review.decide(set_consent("no", find_photos(dataset)["person2/0.png"]))
        review.decide({"kind": "drop", "faces": [find_faces(dataset, COPY)[0].face_id]})
        review.act(act="undo")
        review.act(act="undo")
        assert {name: list(own) for name, own in people.members.items()} == shown
    assert strip(dataset, "decisions") == strip(original / "dataset", "decisions")
    assert files(dataset) == files(original / "dataset") and len(rows(dataset, DecisionRow)) == 8


def test_the_consent_of_a_person_covers_all_photos_with_the_person(dataset: Path):
    photos, person = find_photos(dataset), find_person(dataset, "person2/1.png")
    decide(dataset, [set_consent("no", person)])
    (row,) = rows(dataset, DecisionRow)
    named = {name for name, photo_id in photos.items() if photo_id in json.loads(row.faces)["photos"]}
    assert named == {"person2/0.png", "person2/1.png", "person2/2.png", COPY} and row.name == "no"
    assert person not in {row.identity_id for row in rows(dataset, Membership)} and check_ledger(dataset) == []
    # A line of the log can be given as a decision. The same decision is not recorded a second time.
    line = format_entry(read_log_entries(dataset)[0])
    assert line["photos"] == sorted(photos[name] for name in named) and line["consent"] == "no"
    assert decide(dataset, [line]).decisions == ()
    # If two decisions are about the same photo, the newer one counts.
    decide(dataset, [set_consent("yes", photos["person2/1.png"])])
    assert read_consents(dataset, "person2/1.png") == ("yes", None, "ok", None)
    assert read_consents(dataset, "person2/2.png") == ("no", None, "dropped", "no_consent")
    ((number, kind, phrase),) = decide(dataset, [line]).decisions
    assert (number, kind) == (3, "consent") and phrase.endswith(" is no")


def test_the_strictest_of_sidecar_and_decision_counts(original: Path, dataset: Path, tmp_path: Path):
    table, photos = tmp_path / "rights.csv", find_photos(dataset)
    names = ("person0/0.png", "person0/1.png")
    table.write_text(f"file,consent\n{names[0]},no\n{names[1]},yes\n")
    curated(original / "photos", dataset, sidecar=str(table), require_consent=True)
    assert read_consents(dataset, names[0]) == ("no", "no", "dropped", "no_consent")
    assert read_consents(dataset, "person1/0.png") == (None, None, "dropped", "consent_missing")
    with pytest.raises(BadInput, match=r"the sidecar says no for 1 of these photos\. Change their lines"):
        decide(dataset, [set_consent("yes", photos[names[0]], photos["person1/0.png"])])
    assert rows(dataset, DecisionRow) == []
    with review_dataset(dataset) as review:
        page = review.client.get("/unused?kind=photo&reason=consent_missing").text
        menus = re.findall(r'data-photo="([0-9a-f]{64})" data-value="" aria-label="Consent for the photo', page)
        assert len(menus) == page.count("No picture may be shown") == 15
        review.decide(set_consent("yes", photos["person1/0.png"]))
        assert 'data-value="yes"' in review.client.get("/unused?kind=photo&reason=consent_missing").text
        review.decide(set_consent("withdrawn", photos[names[1]]))
    assert read_consents(dataset, "person1/0.png") == ("yes", None, "ok", None)
    assert read_consents(dataset, names[1]) == ("withdrawn", "yes", "dropped", "no_consent")
    curated(original / "photos", dataset, sidecar=str(table), require_consent=True)
    assert [face.status for face in find_faces(dataset, "person1/0.png")] == ["ok"]
    assert read_consents(dataset, names[1]) == ("withdrawn", "yes", "dropped", "no_consent")
    (face,) = find_faces(dataset, "person1/0.png")
    with review_dataset(dataset) as review:  # an undo hides the photo at once, even before the undo is applied
        people = review.session.read().people
        pictures = [f"/crop/{face.face_id}.webp", f"/picture/photo/{face.photo_id}.webp"]
        assert {review.client.get(link).status_code for link in pictures} == {200}
        assert face.face_id in people.identity_of
        for _ in range(2):
            said = review.act(act="undo")["sentence"]
        assert "1 photo may not be used any more. Its crops and embeddings are erased when the" in said
        assert face.face_id not in people.identity_of
        assert {review.client.get(link).status_code for link in pictures} == {404}
    assert read_consents(dataset, names[1]) == ("yes", "yes", "ok", None)
    # After the undo, the photo has no consent again. It stays out, because the last curation required consent.
    assert read_consents(dataset, "person1/0.png") == (None, None, "dropped", "consent_missing")
    assert [face.reason for face in find_faces(dataset, "person1/0.png")] == ["consent_missing"]
    assert check_ledger(dataset) == []


def test_decisions_recorded_one_by_one_give_the_ledger_of_decide(dataset: Path, tmp_path: Path):
    recorded, photos = Path(shutil.copytree(dataset, tmp_path / "recorded")), find_photos(dataset)
    people = [find_person(dataset, f"person{number}/1.png") for number in (0, 1, 3, 4)]
    face = find_faces(dataset, "person0/0.png")[0].face_id
    requests = [
        set_consent("no", photos[BOTH], photos["person3/0.png"]),
        {"kind": "merge", "sides": people[:2]},
        {"kind": "drop", "faces": [face]},
        set_consent("withdrawn", photos["person0/0.png"]),
        {"kind": "undo", "undoes": 3},
        {"kind": "rename", "faces": [people[2]], "name": "Ann"},
        set_consent("no", people[3]),
    ]
    desk = None
    for request in requests:
        decide(dataset, [request])
        desk = record_decisions(recorded, [request], desk).desk
        assert {row.face_id: row.identity_id for row in rows(dataset, Membership)} == dict(desk.people.identity_of)
    apply_decisions_of(recorded)
    assert strip(recorded) == strip(dataset) and files(recorded) == files(dataset) and check_ledger(dataset) == []


def test_a_pass_that_was_killed_is_finished_by_the_next(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    twin = Path(shutil.copytree(dataset, tmp_path / "twin"))
    faces = find_faces(dataset, BOTH)
    requests = [set_consent("no", find_photos(dataset)[BOTH])]
    decide(twin, requests)

    def kill(module: ModuleType, name: str, work: Callable[[], object]) -> list[Path]:
        """Stops `work` at the first call of a function of a module. Returns the crops and LQ images that are left."""
        with monkeypatch.context() as patch:
            patch.setattr(module, name, lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                work()
        paths = [crop_path(dataset, face.face_id) for face in faces]
        return [path for path in (*paths, *(dataset / "lq").rglob(f"{faces[0].face_id}.png")) if path.exists()]

    assert len(kill(curate.decisions.decide, "erase_dropped_faces", lambda: decide(dataset, requests))) == 3
    # The work stops after the first crop, then before the list of a frozen set, and then before the thumbnails.
    for name, left in (("find_version_files", 2), ("_shrink_set_files", 0), ("_forget_in_review", 0)):
        assert len(kill(manifests.privacy.erase, name, lambda: apply_decisions_of(dataset))) == left
    # the review shows nothing of the photo when it starts again, and finishes the work
    with review_dataset(dataset) as review:
        assert {review.client.get(f"/crop/{face.face_id}.webp").status_code for face in faces} == {404}
    assert strip(dataset) == strip(twin) and files(dataset) == files(twin) and check_ledger(dataset) == []
    lists = [{path.name: path.read_bytes() for path in (one / "lq").rglob("*.*")} for one in (dataset, twin)]
    assert lists[0] == lists[1] and "theta.jsonl" in lists[0]


def test_a_purge_removes_the_photo_from_the_log(dataset: Path):
    photos = find_photos(dataset)
    one, other = photos[BOTH], photos["person3/0.png"]
    decide(dataset, [set_consent("yes", one, other), set_consent("no", one), {"kind": "undo", "undoes": 2}])
    done = purge(dataset, plan_purge(dataset, photos=[one]))
    assert done.proof.remains == ()
    (row,) = rows(dataset, DecisionRow)  # the decision about only this photo is removed, together with its undo
    assert (row.decision_id, json.loads(row.faces)) == (1, {"photos": [other]})
    assert read_consents(dataset, "person3/0.png")[0] == "yes"


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (set_consent("maybe", "PHOTO"), "The consent is 'maybe'. Give yes, no or withdrawn."),
        (set_consent("no", "abc"), "'abc' is not an id. Give at least the first 6 characters of the id of a photo"),
        (set_consent("no", "zzzzzz"), "There is no photo, face or person with the id zzzzzz."),
        (set_consent("no", "p-000000"), "There is no photo, face or person with the id p-000000."),
        (set_consent("no", "0" * 64), "The dataset has none of these photos."),
        (set_consent("no"), "The decision names no photo."),
        ({"kind": "consent", "photos": ["PHOTO"]}, "The consent is incomplete. Give the consent: --consent yes, no or"),
        ({"kind": "consent", "consent": "no"}, "The consent is incomplete. Name the photos, faces or people"),
        ({**set_consent("no", "PHOTO"), "faces": []}, "A consent has no key 'faces'."),
    ],
)
def test_a_wrong_request_is_refused_with_a_sentence(original: Path, request_: dict[str, Any], said: str):
    photo_id = find_photos(original / "dataset")[BOTH]
    if request_.get("photos") == ["PHOTO"]:
        request_ = {**request_, "photos": [photo_id]}
    with pytest.raises(BadInput, match=re.escape(said)):
        decide(original / "dataset", [request_], dry_run=True)


def test_the_options_of_the_command_are_checked(original: Path, command: Run):
    refused = command("decide", original / "dataset", "lock", "p-000000", "--consent", "no")
    assert refused.returncode == 2 and "Only the action consent takes --consent" in refused.stderr
    missing = command("decide", original / "dataset", "consent", find_photos(original / "dataset")[BOTH])
    assert missing.returncode == 2 and "Give the consent: --consent yes, no or withdrawn" in missing.stderr
    # A decision file of another dataset may name photos that are not in this dataset.
    known = find_photos(original / "dataset")[BOTH]
    outcome = decide(original / "dataset", [set_consent("no", known, "0" * 64)], dry_run=True)
    assert "1 photo (" in outcome.decisions[0][2] and "(1 photo not in the dataset)" in outcome.decisions[0][2]


@pytest.mark.skipif(not (SHARED / "photos").is_dir(), reason="needs the shared photos beside the repository")
@pytest.mark.exhaustive
def test_a_person_of_real_photos_is_refused(tmp_path: Path):
    folder = next(one for one in sorted((SHARED / "photos").iterdir()) if one.is_dir())
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in sorted(folder.iterdir())[:4]:
        shutil.copy(path, photos / path.name)
    dataset = tmp_path / "dataset"
    curated(photos, dataset, faces="dlib")
    with Ledger.open(dataset) as ledger:
        person, faces = ledger.query(
            "SELECT identity_id, list(face_id) AS faces FROM memberships GROUP BY 1 ORDER BY len(faces) DESC, 1"
        ).row(0)
    said = decide(dataset, [set_consent("withdrawn", person)]).notices
    assert any("may not be used any more" in notice for notice in said) and check_ledger(dataset) == []
    assert person not in {row.identity_id for row in rows(dataset, Membership)}
    assert not any(crop_path(dataset, face).exists() for face in faces)
    decide(dataset, [{"kind": "undo", "undoes": 1}])
    curated(photos, dataset, faces="dlib")
    assert {row.face_id for row in rows(dataset, Face) if row.status == "ok"} >= set(faces)
    assert check_ledger(dataset) == []
