"""Tests the pages of the areas through the application: what they show, and that they send only recorded pictures."""

from __future__ import annotations

import html
import io
import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from curate.decisions.decide import apply_decisions_of, decide
from curate.review.map.face_map import FaceMap, place_faces, read_key, read_map
from curate.review.web.background import Jobs
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Degradation, Face, Membership, Photo
from manifests.privacy.erase import remove_files
from tests.doubles import curation as doubles
from tests.doubles.review.client import open_review, review_dataset
from tests.doubles.review.reviewed_dataset import SET, make_restored_folder, make_result


@pytest.fixture
def client(made: Path) -> TestClient:
    return open_client(made)


def open_client(dataset: Path, runs: tuple[Path, ...] = ()) -> TestClient:
    client = open_review(dataset)
    state = client.app._app.state  # type: ignore[attr-defined]
    state.jobs, state.runs = Jobs(in_thread=True), runs
    return client


def open_picture(client: TestClient, link: str) -> Image.Image:
    answer = client.get(link)
    assert answer.status_code == 200, (link, answer.text)
    image = Image.open(io.BytesIO(answer.content))
    assert not image.info.get("exif") and not image.info.get("icc_profile")
    return image


def find_links(text: str, pattern: str) -> list[str]:
    return list(dict.fromkeys(re.findall(f'"({pattern})"', text)))


def wait(read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    end = time.monotonic() + 20
    while (answer := read())["work"] == "running":
        assert time.monotonic() < end
        time.sleep(0.02)
    return answer


def test_the_page_of_copies_shows_every_copy_with_its_reason(client: TestClient) -> None:
    page = client.get("/copies").text
    assert page.count("This copy is smaller.") == 2 and page.count('class="badge"') == 2
    pictures = find_links(page, "/picture/face/[0-9a-f]{32}.webp")
    assert len(pictures) == 4 and all(open_picture(client, link).format == "WEBP" for link in pictures)


def find_acts(page: str) -> list[dict[str, Any]]:
    return [json.loads(html.unescape(act)) for act in re.findall(r'data-act="([^"]+)" data-done', page)]


def test_another_copy_is_chosen_and_a_dropped_face_is_used_after_all(made: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    shutil.copytree(made, dataset)
    client = open_client(dataset)

    def act(body: dict[str, Any]) -> None:
        answer = client.post("/api/act", json=body)
        assert answer.status_code == 200, answer.text

    first, _ = find_acts(client.get("/copies").text)
    act(first)
    page = client.get("/copies").text
    assert page.count("as soon as the decisions are applied") == 1 and first not in find_acts(page)
    apply_decisions_of(dataset)
    page = client.get("/copies").text
    assert "You chose the copy that is used." in page and len(find_acts(page)) == 2 and first not in find_acts(page)
    used = [face.face_id for face in doubles.rows(dataset, Face) if face.status == "ok"][:2]
    act({"requests": [{"kind": "drop", "faces": used}]})
    apply_decisions_of(dataset)
    page = client.get("/unused?kind=face&reason=decided").text
    undo, other = find_acts(page)
    assert undo == other and "dropped 2 faces. Without this decision, all of them are used again." in page
    act(undo)
    assert find_acts(client.get("/unused?kind=face&reason=decided").text) == []
    apply_decisions_of(dataset)
    assert {face.status for face in doubles.rows(dataset, Face) if face.face_id in used} == {"ok"}


def test_a_face_that_a_filter_dropped_is_used_after_all(made: Path, tmp_path: Path) -> None:
    dataset, twin, page = tmp_path / "dataset", tmp_path / "twin", "/unused?kind=face&reason=too_small"
    shutil.copytree(made, dataset)
    shutil.copytree(made, twin)
    with review_dataset(dataset) as review:
        first, second = find_acts(review.client.get(page).text)
        accepted = review.act(**first)
        assert accepted["sentence"] == "The next `likeness curate` uses 1 face that a filter dropped."
        assert accepted["state"]["unapplied"] == 1 and accepted["state"]["undo"] == "accept"
        text = review.client.get(page).text
        assert text.count("uses this face, because a decision accepts it.") == 1 and "Take back" in text
        assert sorted(map(str, find_acts(text))) == sorted(
            map(str, [{"requests": [{"kind": "undo", "undoes": 1}]}, second])
        )
        apply_decisions_of(dataset)
        assert review.get("/api/state")["state"]["unapplied"] == 0
        review.act(act="undo")
        assert find_acts(review.client.get(page).text) == [first, second]
        review.act(act="redo")
        (face,) = first["requests"][0]["faces"]
        assert review.refuse(requests=[{"kind": "drop", "faces": [face]}]).startswith(
            f"The face {face[:12]} is not in use"
        )
    for request in (first["requests"][0], {"kind": "undo", "undoes": 1}, {"kind": "undo", "undoes": 2}):
        decide(twin, [request])
    tables = [
        {name: table for name, table in doubles.contents(one).items() if name != "stages"} for one in (dataset, twin)
    ]
    assert tables[0] == tables[1]
    with review_dataset(dataset) as review:  # the pages are opened again after a restart
        review.act(act="undo")
        assert find_acts(review.client.get(page).text) == [first, second]


def test_a_page_says_why_the_ledger_cannot_be_read(made: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    shutil.copytree(made, dataset)
    client = open_client(dataset)
    with Ledger.open(dataset, write=True):
        answer = client.get("/copies")
    assert answer.status_code == 409 and "Another command is working on this dataset." in answer.text
    assert client.get("/copies").status_code == 200


def test_each_reason_has_a_tab_with_its_items_and_their_pictures(client: TestClient) -> None:
    page = client.get("/unused").text
    tabs = find_links(page, r"\?kind=[^\"]+")
    # two links are marked as current: the link of the page, and the link of the tab
    assert len(tabs) >= 4 and page.count("aria-current") == 2
    for tab in tabs:
        shown = client.get("/unused" + tab.replace("&amp;", "&")).text
        assert shown.count("<figure") >= 1
        for link in find_links(shown, r"/picture/(?:face|photo)/[0-9a-f]+\.webp"):
            open_picture(client, link)
    broken = client.get("/unused?kind=file&reason=not_an_image").text
    assert "broken.jpg" in broken and "Not decoded" in broken
    assert "Every file" not in client.get("/unused?kind=nothing&reason=%3Cscript%3E&start=-5").text


def test_a_face_without_a_crop_is_cut_out_of_its_photo_unless_its_picture_may_not_be_shown(
    made: Path, tmp_path: Path
) -> None:
    dataset = tmp_path / "dataset"
    shutil.copytree(made, dataset)
    with Ledger.open(dataset, write=True) as ledger:
        face = next(face for face in ledger.read_rows(Face) if face.status == "ok")
        photo = ledger.read_rows(Photo, "photo_id = ?", face.photo_id)[0]
        changed = Face(**{**vars(face), "crop_sha256": None, "status": "dropped", "reason": "too_blurred"})
        ledger.record("screen", "all", {"by": "the test"}, [changed])
    client = open_client(dataset)
    link, whole = f"/picture/face/{face.face_id}.webp", f"/picture/photo/{photo.photo_id}.webp"
    colour = np.asarray(open_picture(client, link).convert("RGB")).mean((0, 1))
    assert np.ptp(colour) > 10  # the picture shows the colour of the person, and not only the black background
    assert open_picture(client, whole).size[0] > open_picture(client, whole).size[1]
    with Ledger.open(dataset, write=True) as ledger:
        ledger.record("consent", "all", {}, [Photo(**{**vars(photo), "consent": "withdrawn"})])
    assert client.get(link).status_code == client.get(whole).status_code == 404


def test_a_frozen_set_shows_lq_target_and_references(client: TestClient, made: Path) -> None:
    page = client.get("/sets").text
    assert SET in page and "reference 1" in page
    for link in find_links(page, r"/picture/lq/[^\"]+"):
        assert open_picture(client, link).size == (32, 32)
    sizes = {open_picture(client, link).size for link in find_links(page, r"/picture/crop/[^\"]+")}
    assert sizes == {(32, 32), (512, 512)}
    face = doubles.rows(made, Degradation)[0].face_id
    for link in (
        f"/picture/lq/{SET}/{'0' * 32}.png", f"/picture/lq/other/{face}.png", f"/picture/crop/8/{face}.png",
        f"/picture/lq/..%2F..%2Ffaces%2F{face[:2]}/{face}.png", "/picture/crop/64/..%2Fsecret.png", "/sets?set=other",
    ):  # fmt: skip
        assert client.get(link).status_code == 404, link


def test_results_are_shown_with_their_images_and_only_images_of_the_result_are_served(
    made: Path, tmp_path: Path
) -> None:
    assert "There is no result of an evaluation" in open_client(made).get("/runs").text
    faces = make_result(made, tmp_path / "<b>run")
    client = open_client(made, (tmp_path / "<b>run",))
    page = client.get("/runs").text
    assert "&lt;b&gt;run/evaluation" in page and "<b>run" not in page and str(tmp_path) not in page
    links = find_links(page, r"/picture/restored/[^\"]+")
    assert [link[-36:-4] for link in links] == faces[:20]
    assert open_picture(client, links[1]).convert("RGB").getpixel((5, 5)) == (1, 1, 1)
    by_loss = client.get("/runs?metric=lpips&system=0").text
    assert "This result has figures, but no restored images" in by_loss and "/picture/restored/" not in by_loss
    base = links[0].rsplit("/", 2)[0]
    for link in (f"{base}/9/{faces[0]}.png", f"{base}/1/{'0' * 32}.png", f"/picture/restored/x/1/{faces[0]}.png",
                 f"{base}/1/..%2Fevaluation.png"):  # fmt: skip
        assert client.get(link).status_code == 404, link


def test_restored_photos_are_shown_with_the_photo_before_if_the_ledger_knows_it(made: Path, tmp_path: Path) -> None:
    make_restored_folder(made, tmp_path / "out")
    client = open_client(made, (tmp_path / "out",))
    (link,) = find_links(client.get("/runs").text, r"/restored\?folder=[^\"]+")
    page = client.get(link).text
    assert "of &lt;photo.png&gt; was restored" in page and str(tmp_path) not in page and "outside" not in page
    # The first photo is the photo whose faces are least like their references.
    pictures = find_links(page, r"/picture/photo/[^\"]+")
    names = [re.sub(r".*/(\d+/\w+)\.png", r"\1", one) for one in pictures]
    assert names == ["0/lq", "0/restored", "1/lq", "1/restored", "1/truth", "2/restored"]
    sizes = [open_picture(client, one).size for one in pictures]
    assert sizes[1] == sizes[3] == sizes[5] == (60, 40) and sizes[2] == sizes[4] == (32, 32)
    assert sizes[0] == doubles.photo([1], 0).shape[1::-1] and page.count("is not in this dataset") == 1
    base = pictures[0].rsplit("/", 2)[0]
    for bad in (f"{base}/2/lq.png", f"{base}/3/restored.png", f"{base}/0/truth.png", f"{base}/0/other.png",
                "/picture/photo/0123/0/lq.png", "/restored?folder=x", "/restored"):  # fmt: skip
        assert client.get(bad).status_code == 404, bad


def test_the_map_is_computed_once_and_a_selection_shows_its_faces(made: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    shutil.copytree(made, dataset)
    client = open_client(dataset)
    page = client.get("/map").text
    link = find_links(page, '/api/map/progress[^"]+')[0]
    assert wait(lambda: client.get(link).json())["work"] == "done"
    key = link.partition("key=")[2]
    (file,) = (dataset / "map").iterdir()
    before = file.stat().st_mtime_ns
    assert 'id="map"' in client.get("/map").text and file.stat().st_mtime_ns == before
    points = np.frombuffer(client.get(f"/api/map/points?key={key}").content, "<u2").reshape(-1, 3)
    people = {row.face_id: row.identity_id for row in doubles.rows(dataset, Membership)}
    assert len(points) == len(people) and points[:, 2].max() < 360
    hues = np.sort(np.unique(points[:, 2]).astype(int))
    # each of the eight people has a different colour
    assert len(hues) == len(set(people.values())) and np.diff(hues).min() > 20
    face = client.get(f"/api/map/face/0?key={key}").json()
    assert face == {"face": min(people), "person": people[min(people)]}
    link = client.post(f"/api/map/selection?key={key}", json={"rows": [2, 0, 1, 1]}).json()["link"]
    (source,) = find_links(client.get(link).text, r"/api/selection[^\"]+")
    shown = client.get(source).json()
    assert sorted(row["id"] for row in shown["rows"]) == sorted(people)[:3] and shown["total"] == 3
    assert all(people[row["id"]] == row["person"] and row["file"] for row in shown["rows"])
    # If a face of the selection is dropped later, the selection loses this face.
    client.post("/api/act", json={"requests": [{"kind": "drop", "faces": [min(people)]}]}).raise_for_status()
    assert client.get(source).json()["total"] == 2
    for body in ({"rows": [len(people)]}, {"rows": [-1]}, {"rows": ["0"]}, {"rows": [True]}, [1], {}):
        assert client.post(f"/api/map/selection?key={key}", json=body).status_code == 400, body
        broken = client.post(f"/api/map/selection?key={key}", content="{", headers={"content-type": "application/json"})
        assert broken.status_code == 409 and broken.json() == {"error": "The request is not JSON."}
    assert client.get("/api/map/points?key=old").status_code == 409
    assert client.get("/selection?name=99").status_code == 404
    # If a face is erased, the map is removed.
    with Ledger.open(dataset, write=True) as ledger:
        remove_files(ledger, [min(people)])
    assert not list((dataset / "map").iterdir())


def test_a_map_puts_alike_faces_together_and_is_the_same_every_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((6, 32))
    faces = np.repeat(centres, 30, 0) + 0.3 * rng.standard_normal((180, 32))
    faces = (faces / np.linalg.norm(faces, axis=1, keepdims=True)).astype(np.float32)
    steps: list[tuple[str, int, int]] = []
    places = place_faces(faces, lambda *step: steps.append(step))
    assert places.dtype == np.uint16 and places.max() == 65535 and steps[-1][1] <= steps[-1][2]
    assert (place_faces(faces) == places).all()
    far = np.linalg.norm(places[:, None].astype(float) - places[None], axis=2)
    np.fill_diagonal(far, np.inf)
    assert (far.argmin(1) // 30 == np.arange(180) // 30).all()
    # A map can have only a few faces, one face or no face.
    assert place_faces(faces[:5]).shape == (5, 2) and place_faces(faces[:1]).shape == (1, 2)
    assert place_faces(np.zeros((0, 0), np.float32)).shape == (0, 2)


def test_a_damaged_map_counts_as_missing(made: Path, tmp_path: Path) -> None:
    with Ledger.open(made) as ledger:
        key, faces = read_key(ledger)
    (tmp_path / "map").mkdir()
    for content in (b"", b"no array"):
        (tmp_path / "map" / f"{key}.npy").write_bytes(content)
        assert read_map(tmp_path, key, faces) is None
    np.save(tmp_path / "map" / f"{key}.npy", np.zeros((len(faces) + 1, 2), np.uint16))
    assert read_map(tmp_path, key, faces) is None
    np.save(tmp_path / "map" / f"{key}.npy", np.zeros((len(faces), 2), np.uint16))
    assert isinstance(read_map(tmp_path, key, faces), FaceMap)


def test_leaks_are_shown_side_by_side_and_repaired_in_two_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubles.install(monkeypatch)
    dataset = tmp_path / "dataset"
    doubles.curated(doubles.album(tmp_path / "photos", people=3, each=4), dataset)
    faces: dict[str, list[str]] = {}
    for row in doubles.rows(dataset, Membership):
        faces.setdefault(row.identity_id, []).append(row.face_id)
    client = open_client(dataset)
    assert "No person, no photo and no picture is in two splits." in search(client)
    decide(dataset, [{"kind": "split", "faces": sorted(own)[:2]} for own in faces.values()])
    page = search(client)
    assert page.count('class="pair"') > 0 and page.count('class="card"') == 2 * page.count('class="pair"')

    def work(name: str) -> dict[str, Any]:
        key = client.post(f"/api/leaks/{name}", json={}).json()["key"]
        return wait(lambda: client.get(f"/api/leaks/{name}?key={key}").json())

    plan = work("plan")
    assert plan["decides"] and "You can take each decision back." in plan["sentence"]
    assert "The repair ended" in work("repair")["sentence"]
    assert "No person, no photo and no picture is in two splits." in search(client)
    assert not work("plan")["decides"]
    assert client.post("/api/leaks/nothing", json={}).status_code == 404


def search(client: TestClient) -> str:
    """Waits until the search for leaks has ended, and returns the page of the leaks."""
    page = client.get("/leaks").text
    for link in find_links(page, '/api/leaks/search[^"]+'):
        wait(lambda link=link: client.get(link).json())
    return client.get("/leaks").text
