"""Tests that the review keeps nothing of a purged person, and shows no photo without consent."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np

from curate.review.server import AREAS
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import THUMBNAILS, VISIT_NAME
from manifests.ledger.records import Photo
from manifests.pictures.png_files import encode_png
from manifests.privacy.purge import purge
from manifests.privacy.purge_plan import plan_purge
from manifests.runtime.files import write_atomically
from manifests.runtime.uris import path_of
from tests.doubles.curation import find_problems
from tests.doubles.review.client import Review, review_dataset
from tests.doubles.review.reviewed_dataset import SET, make_restored_folder, make_result


def test_a_purge_removes_the_person_from_the_files_of_the_review(dataset: Path):
    with review_dataset(dataset) as review:
        people = review.list_people()
        for row in people:
            assert review.client.get(f"/thumbnail/{row['best']}.webp").status_code == 200
    gone = people[0]["id"]
    assert len(json.loads((dataset / VISIT_NAME).read_bytes())[gone]) == 5
    done = purge(dataset, plan_purge(dataset, [gone]))
    assert done.proof.remains == () and not (dataset / THUMBNAILS).exists()
    seen = json.loads((dataset / VISIT_NAME).read_bytes())
    assert set(seen) == {row["id"] for row in people[1:]}


def test_a_review_that_is_open_during_a_purge_or_a_refusal_saves_no_face_that_is_gone(dataset: Path):
    with review_dataset(dataset) as review:
        gone, refused, *kept = [row["id"] for row in review.list_people()]
        members = review.session.read().people.members
        faces = {*members[gone], *members[refused]}
        review.decide({"kind": "consent", "photos": [refused], "consent": "no"})
        review.act(act="apply")
        review.session.wait()
        purge(dataset, plan_purge(dataset, [gone]))
    text = (dataset / VISIT_NAME).read_text()
    assert set(json.loads(text)) == set(kept) and not any(face in text for face in faces)


def test_a_broken_list_of_seen_faces_counts_as_a_first_visit(dataset: Path):
    (dataset / VISIT_NAME).write_text('{"p-1": 7}')
    with review_dataset(dataset) as review:
        assert review.get("/api/state")["state"]["joined"] == 0
    assert len(json.loads((dataset / VISIT_NAME).read_bytes())) == 4
    (dataset / VISIT_NAME).write_text("[]")
    with review_dataset(dataset) as review:
        purge(dataset, plan_purge(dataset, [review.list_people()[0]["id"]]))
        assert not (dataset / VISIT_NAME).exists() and len(review.list_people()) == 3


def test_no_picture_of_a_photo_without_consent_is_shown(dataset: Path):
    with review_dataset(dataset) as review:
        face = review.list_people()[0]["best"]
        photo = review.session.read().people.faces[face].photo_id
        with Ledger.open(dataset, write=True) as ledger:
            (row,) = ledger.read_rows(Photo, "photo_id = ?", photo)
            ledger.record("consent", "test", {}, [Photo(**{**vars(row), "consent": "withdrawn"})])
        for kind in ("thumbnail", "crop", "source"):
            assert review.client.get(f"/{kind}/{face}.webp").status_code == 404


def test_no_address_shows_a_photo_after_its_consent_was_refused(made: Path, tmp_path: Path):
    dataset = tmp_path / "dataset"
    shutil.copytree(made, dataset)
    make_result(dataset, dataset / "run")
    make_restored_folder(dataset, dataset / "restored")
    with Ledger.open(dataset) as ledger:
        face, photo = ledger.query(
            "SELECT face_id, photo_id FROM degradations JOIN faces USING (face_id) ORDER BY face_id"
        ).row(0)
    with review_dataset(dataset) as review:
        get, person = review.client.get, review.session.read().people.identity_of[face]
        (folder,) = re.findall(r"/restored\?folder=[^\"]+", get("/runs").text)
        restored = [link for link in re.findall(r"/picture/restored/[^\"]+", get("/runs").text) if face in link]
        # A restored image of another face must disappear too if the refused photo was one of its references.
        others = [link for link in re.findall(r"/picture/restored/[^\"]+", get("/runs").text) if face not in link]
        assert others and {get(link).status_code for link in others} == {200}
        # this image was restored from the frozen set
        restored += re.findall(r"/picture/photo/\w+/1/\w+\.png", get(folder).text)
        pictures = [
            *(f"/{kind}/{face}.webp" for kind in ("thumbnail", "crop", "source", "picture/face")),
            f"/picture/photo/{photo}.webp",
            f"/picture/crop/64/{face}.png",
            f"/picture/lq/{SET}/{face}.png",
            *restored,
        ]
        # The links must use every route that sends a picture.
        routes = [route for area in AREAS for route in area.ROUTES if route.path.endswith((".webp", ".png"))]
        assert all(any(route.path_regex.match(link) for link in pictures) for route in routes) and len(pictures) == 11
        pages = ("/sets", "/runs", folder, "/copies", "/leaks", "/unused", f"/person/{person}")

        def look() -> tuple[set[int], list[str]]:
            """Returns the HTTP statuses of the pictures, and those pictures that the pages show."""
            links = [link for page in pages for link in re.findall(r'src="(/[^"]+)"', get(page).text)]
            shown = [row["id"] for row in review.get(f"/api/people/{person}/faces").get("rows", [])]
            shown += [row["best"] for row in review.list_people()]
            return {get(link).status_code for link in pictures}, sorted((set(links) | set(shown)) & {*pictures, face})

        statuses, shown = look()
        assert statuses == {200} and len(shown) == 6
        review.decide({"kind": "consent", "photos": [face], "consent": "no"})
        assert review.session.read().unapplied == 1 and look() == ({404}, [])
        assert {get(link).status_code for link in others} == {404}
        review.act(act="undo")
        assert look() == (statuses, shown) and {get(link).status_code for link in others} == {200}
        review.act(act="redo")
        assert look() == ({404}, [])
    with review_dataset(dataset) as review:  # the decision was applied when the review ended
        base = folder.replace("/restored?folder=", "/picture/photo/")
        # The restored photo of a photo outside the dataset now has the number 1, so the link with the number 1 still
        # works.
        gone = [link for link in pictures if link != f"{base}/1/restored.png"]
        assert {review.client.get(link).status_code for link in gone} == {404}
        page = review.client.get(folder).text
        # the restored photo of the frozen set is not known any more
        assert "photo.png" in page and "set.png" not in page
    assert not (dataset / "lq" / SET / f"{face}.png").exists() and find_problems(dataset) == []


def test_no_restored_photo_is_shown_if_its_photo_or_a_reference_is_refused_or_purged(dataset: Path, tmp_path: Path):
    with Ledger.open(dataset) as ledger:
        files = ledger.query("SELECT uri, sha256, photo_id FROM files ORDER BY uri LIMIT 6").rows()
        face = ledger.query("SELECT min(face_id) FROM faces WHERE photo_id = ?", files[4][2]).item()
        used = ledger.query("SELECT min(face_id) FROM faces WHERE photo_id = ?", files[5][2]).item()
    paths = [str(path_of(uri)) for uri, *_ in files]
    hashes, moved = [sha256 for _, sha256, _ in files], str(tmp_path / "moved.png")
    # Maps the name of a restored photo to (path, SHA-256) of its original, and of its reference if there is one.
    log = {
        "old": [(paths[0], None)],
        "moved": [(moved, hashes[0])],
        "overwritten": [(paths[1], hashes[0])],
        "reference": [(paths[1], hashes[1]), (moved, hashes[0])],
        "crop": [(str(tmp_path / f"{face}.png"), None)],
        "crop of somebody": [(str(tmp_path / f"{'0' * 32}.png"), None)],
        "name of a face": [(str(tmp_path / f"{used}.png"), hashes[0])],
        "name like a face": [(str(tmp_path / f"{'1' * 32}.png"), hashes[2])],
        "frozen image": [(str(tmp_path / "gone" / "lq" / SET / f"{face}.png"), None)],
        "stranger": [(moved, "0" * 64)],
        "other": [(paths[1], hashes[1]), (paths[2], hashes[2])],
    }
    lines = []
    for name, (source, *references) in log.items():
        write_atomically(tmp_path / "out" / f"{name}.png", encode_png(np.full((9, 9, 3), 77, np.uint8)))
        uses = [{"file": file, "sha256": sha256} for file, sha256 in references]
        line = {"place": f"{name}.png", "source": source[0], "source_sha256": source[1], "status": "ok", "reason": None}
        lines.append({**line, "faces": [{"similarity": None, "sentence": f"<{name}>", "references": uses}]})
    (tmp_path / "out" / "restored.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def look(review: Review) -> tuple[set[str], set[str]]:
        """Returns the photos that the page names, and the photos whose pictures the page shows."""
        review.client.app._app.state.runs = (tmp_path / "out",)  # type: ignore[attr-defined]
        (folder,) = re.findall(r"/restored\?folder=[^\"]+", review.client.get("/runs").text)
        cases = re.findall(r"&lt;([\w ]+)&gt;(.*?)</section>", review.client.get(folder).text, re.DOTALL)
        links = {name: re.findall(r'src="([^"]+restored.png)"', text) for name, text in cases}
        assert all(review.client.get(link).status_code == 200 for (link,) in filter(None, links.values()))
        return set(links), {name for name, own in links.items() if own}

    lost = {"crop of somebody", "frozen image"}
    with review_dataset(dataset) as review:
        assert look(review) == (set(log) - lost, set(log) - lost)
        review.decide({"kind": "consent", "photos": [files[0][2], files[4][2]], "consent": "no"})
        refused = {"old", "moved", "overwritten", "reference", "crop", "name of a face"}
        kept = {"stranger", "other", "name like a face"}
        assert look(review) == (set(log) - lost, kept)
    with review_dataset(dataset) as review:  # the decision was applied when the review ended
        assert look(review) == (set(log) - lost, kept)
    purge(dataset, plan_purge(dataset, photos=[files[0][2], files[4][2]]))
    with review_dataset(dataset) as review:
        assert look(review) == (kept, kept) and refused == set(log) - lost - kept
