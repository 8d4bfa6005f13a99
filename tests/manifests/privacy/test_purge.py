"""Tests that a purged person or photo is removed from every file and row and stays out of later runs."""

import dataclasses
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import manifests.privacy.purge
from curate.decisions.decide import decide
from curate.face_filters import FILTER_SETS
from degrade.frozen.dataset_sets import make_set
from degrade.frozen.verify import verify_set
from manifests.card import CARD
from manifests.check import check_ledger
from manifests.errors import BadInput, LedgerBroken, LedgerError
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import LEDGER_NAME, PENDING_NAME, SPILL_NAME
from manifests.ledger.records import (
    DecisionRow,
    Degradation,
    Face,
    File,
    Identity,
    KeptOutMark,
    ListEntry,
    Membership,
    Pair,
    Photo,
    Purge,
    Split,
)
from manifests.privacy.keys import KEY_NAME
from manifests.privacy.proof import Traces, search_traces
from manifests.privacy.purge import purge, read_unfinished_plan
from manifests.privacy.purge_plan import plan_purge
from manifests.privacy.run_cleanup import find_faces_in_runs, remove_faces_from_runs
from manifests.report.build_report import build_report
from manifests.runtime.files import sha256_file
from manifests.why.explain_photo import explain_photo
from tests.doubles import curation as doubles

rows = doubles.rows


def curated(photos: Path, dataset: Path, **changes):
    with pytest.MonkeyPatch.context() as patch:
        doubles.install(patch)
        return doubles.curated(photos, dataset, **changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Makes a dataset of six people with four photos each, and two frozen sets.

    One photo shows two people, and one photo is a copy. The dataset has decisions, and labels as hints.
    """
    root = tmp_path_factory.mktemp("purge")
    photos = doubles.album(root / "photos", people=6, each=4)
    doubles.save(photos / "both.png", doubles.photo([0, 1], 50))
    doubles.save(photos / "copy of 0.jpg", doubles.photo([0], 0))
    curated(photos, root / "dataset", labels="hint")
    people = person_of(root / "dataset")
    decide(root / "dataset", [{"kind": "rename", "faces": [people["person0"]], "name": "Ann"}])
    decide(root / "dataset", [{"kind": "lock", "faces": [people["person2"]]}])
    make_set(root / "dataset", "codeformer", "test", 0, 64, workers=1)
    make_set(root / "dataset", "codeformer", "train", 0, 64, workers=1)
    return root


@pytest.fixture
def own(made, tmp_path) -> Path:
    """Makes a copy of the dataset, so that a test can change it. The dataset and the copy share their photos."""
    return Path(shutil.copytree(made / "dataset", tmp_path / "dataset"))


def person_of(dataset: Path) -> dict[str, str]:
    """Returns a dict that maps each folder of photos to the identity of the person in these photos."""
    photo_of = {face.face_id: face.photo_id for face in rows(dataset, Face)}
    folder = {row.photo_id: row.uri.split("/")[-2] for row in rows(dataset, File)}
    return {folder[photo_of[row.face_id]]: row.identity_id for row in rows(dataset, Membership)}


def faces_in(dataset: Path, folder: str) -> set[str]:
    photos = {row.photo_id for row in rows(dataset, File) if f"/{folder}/" in row.uri}
    return {face.face_id for face in rows(dataset, Face) if face.photo_id in photos}


def everything(dataset: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(dataset.rglob("*")) if path.is_file())


def test_a_person_is_gone_from_every_byte_and_row_and_the_rest_stays_sound(own):
    ann, other = person_of(own)["person0"], min(faces_in(own, "person2"))
    reasons = ("ANN again", "like both.png", f"as {min(faces_in(own, 'person0'))}", "a planned drawing")
    for reason in reasons:
        outcome = decide(own, [{"kind": "drop", "faces": [other], "reason": reason}])
        decide(own, [{"kind": "undo", "undoes": number} for number, *_ in outcome.decisions])
    listed = [row.photo_id for row in rows(own, File) if "/person0/" in row.uri or "/person5/" in row.uri]
    with Ledger.open(own, write=True) as ledger:
        ledger.record(
            "lists", "all", {}, [ListEntry(photo, "x", "train", tuple(listed)) for photo in sorted(set(listed))]
        )
    before = {path: sha256_file(path) for path in own.rglob("*.png")}
    plan = plan_purge(own, [ann])
    assert len(plan.photos) == 6 and plan.people == (ann,) and plan.other_faces == 1
    done = purge(own, plan)
    data = everything(own)
    for text in (*plan.photos, *plan.faces, ann, *plan.uris):
        assert text.encode() not in data
    for text in (*plan.photos, *plan.traces.embeddings):
        assert bytes.fromhex(text) not in data
    assert not {sha256_file(path) for path in own.rglob("*") if path.is_file()} & set(plan.traces.images)
    assert done.removed["photos"] == 6 and done.proof.remains == () and done.proof.files > 20
    assert {len(row.refs) for row in rows(own, ListEntry)} == {4} and len(rows(own, ListEntry)) == 4
    for kind in (Face, Photo, ListEntry, Membership, Pair, Split, Degradation):
        assert not any(one in str(row) for row in rows(own, kind) for one in plan.faces + plan.photos)
    assert check_ledger(own) == []
    left = {path: sha256_file(path) for path in own.rglob("*.png")}
    assert left.items() <= before.items(), "pictures of others changed"
    assert not (own / PENDING_NAME).exists() and read_unfinished_plan(own) is None
    # The rows that stay in the ledger contain no name.
    assert [row.name for row in rows(own, Identity) if row.name] == []
    log = rows(own, DecisionRow)
    assert {row.kind for row in log} == {"lock", "drop", "undo"}
    assert [row.name for row in log if row.kind == "drop"] == [None, None, None, "a planned drawing"]
    (noted,) = rows(own, Purge)
    assert json.loads(noted.removed)["photos"] == 6
    marks = rows(own, KeptOutMark)
    assert len(marks) == 6 and {row.reason for row in marks} == {"purged"}


def test_the_ledger_before_it_was_rewritten_still_held_the_bytes(own, monkeypatch):
    """Tests that the ledger must be rewritten after the deletion, because DuckDB leaves deleted rows in its file."""
    monkeypatch.setattr(manifests.privacy.purge, "rewrite_ledger", lambda dataset: None)
    with pytest.raises(LedgerError, match="Traces are left"):
        purge(own, plan_purge(own, [], ["person1/0.png"]))
    assert (own / PENDING_NAME).exists()


def test_rows_that_a_killed_process_left_in_duckdbs_temporary_files_are_gone(own):
    plan = plan_purge(own, [person_of(own)["person0"]])
    (own / SPILL_NAME).mkdir()
    (own / SPILL_NAME / "duckdb_temp_1_0_storage_S32K-0.tmp").write_bytes(
        b"".join(face.encode() for face in plan.faces)
    )
    assert purge(own, plan).proof.remains == () and not (own / SPILL_NAME).exists()


def test_others_in_the_same_photos_are_counted_also_where_nobody_is_left_of_them(tmp_path):
    photos = doubles.album(tmp_path / "photos", people=3, each=2)
    doubles.save(photos / "both.png", doubles.photo([0, 5], 50))
    curated(photos, tmp_path / "dataset")
    plan = plan_purge(tmp_path / "dataset", [person_of(tmp_path / "dataset")["person0"]])
    assert len(plan.photos) == 3 and len(plan.people) == 2 and plan.other_faces == 1


def test_a_purged_photo_that_is_offered_again_stays_out_with_its_reason(own, made):
    plan = plan_purge(own, [], ["person3/1.png"])
    purge(own, plan)
    others = {row.identity_id for row in rows(own, Membership)}
    summary = curated(made / "photos", own)
    assert summary.files["purged"] == 1 and not set(plan.photos) & {row.photo_id for row in rows(own, Photo)}
    assert {row.identity_id for row in rows(own, Membership)} == others and check_ledger(own) == []
    hidden = [row for row in rows(own, File) if row.reason == "purged"]
    assert len(hidden) == 1 and hidden[0].uri.startswith("hmac:") and hidden[0].photo_id is None
    assert explain_photo(own, str(made / "photos" / "person3" / "1.png"))[0][0].endswith(": dropped, purged")
    # A copy under another name is purged like the original. A second run adds no second row for these files.
    shutil.copy(made / "photos" / "person3" / "1.png", made / "photos" / "again.png")
    try:
        assert curated(made / "photos", own).files["purged"] == 2 == curated(made / "photos", own).files["purged"]
    finally:
        (made / "photos" / "again.png").unlink()


def test_a_purged_set_is_what_degrading_the_rest_gives(own):
    face = next(row.face_id for row in rows(own, Degradation) if row.lq_set.startswith("codeformer-train"))
    photo = next(row.photo_id for row in rows(own, Face) if row.face_id == face)
    plan = plan_purge(own, [], [photo])
    assert plan.lq_images >= 1
    purge(own, plan)
    before = everything(own / "lq")
    again = make_set(own, "codeformer", "train", 0, 64, workers=1)
    assert again.images_written == 0 and everything(own / "lq") == before
    for name in (path.name for path in (own / "lq").iterdir()):
        assert verify_set(own, name).ok, verify_set(own, name)


POINTS = (
    "purge:_remove_rows",
    "purge:_shrink_decisions",
    "purge:remove_files",
    "erase:_shrink_set_files",
    "purge:remove_faces_from_runs",
    "purge:rewrite_ledger",
)
POINTS += ("purge:search_traces",)


@pytest.mark.parametrize(
    "point",
    [pytest.param(point, marks=() if point == "purge:rewrite_ledger" else pytest.mark.exhaustive) for point in POINTS],
)
def test_a_purge_that_is_stopped_anywhere_is_finished_by_the_same_command(own, monkeypatch, point):
    """Interrupts a purge before each step, and while the purge removes files or rows of the ledger."""
    (own / f".{LEDGER_NAME}.rewritten.tmp").write_bytes(b"half a ledger")
    plan = plan_purge(own, [person_of(own)["person0"]])

    def dies(*words, **more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        module, name = point.split(":")
        patch.setattr(f"manifests.privacy.{module}.{name}", dies)
        purge(own, plan)
    with pytest.raises(LedgerError, match="Finish the purge with"):
        Ledger.open(own)
    begun = read_unfinished_plan(own)
    assert begun == dataclasses.replace(plan, purge_id=1)
    done = purge(own, begun)
    assert done.proof.remains == () and check_ledger(own) == [] and len(rows(own, Purge)) == 1


def test_what_likeness_did_not_make_is_named_and_the_purge_waits_for_it(own):
    plan = plan_purge(own, [], ["person4/2.png"])
    (own / "notes.txt").write_text(f"look at {plan.faces[0]}")
    with pytest.raises(LedgerError, match=r"face id in .*notes\.txt"):
        purge(own, plan)
    (own / "notes.txt").unlink()
    assert purge(own, read_unfinished_plan(own)).proof.remains == ()


def test_the_search_finds_what_is_hidden_in_tables_arrays_and_archives(tmp_path):
    rng = np.random.default_rng(0)
    crop, vector = rng.bytes(4000), rng.normal(size=8).astype(np.float32)
    face, photo = "ab" * 16, "cd" * 32
    from manifests.privacy.proof import sample_middle
    from manifests.runtime.files import sha256_bytes

    wanted = Traces(
        photos=(photo,),
        faces=(face,),
        images=(sha256_bytes(crop),),
        middles=(sample_middle(crop),),
        embeddings=(vector.tobytes().hex(),),
        pixels=(sha256_bytes(bytes(12)),),
    )
    assert search_traces(tmp_path, wanted).remains == ()
    (tmp_path / "a.tar").write_bytes(b"x" * 999 + crop)
    # The bytes of the photo's id are partly in one chunk of the search and partly in the next chunk.
    (tmp_path / "b.bin").write_bytes(b"y" * ((1 << 22) - 5) + bytes.fromhex(photo))
    np.save(tmp_path / "c.npy", np.stack([vector * 2, vector]))
    np.save(tmp_path / "d.npy", np.zeros((1, 2, 2, 3), np.uint8))
    pq.write_table(pa.table({"face": [face] * 50, "v": [vector.tolist()] * 50}), tmp_path / "e.parquet")
    found = sorted(one.replace(str(tmp_path), "") for one in search_traces(tmp_path, wanted).remains)
    assert found == [
        "embedding in /c.npy",
        "embedding in /e.parquet",
        "face id in /e.parquet",
        "image in /a.tar",
        "photo hash in /b.bin",
        "pixels in /d.npy",
    ]


def test_whom_nobody_knows_is_refused_and_what_is_out_already_is_not(own):
    for people, photos, said in (
        (["p-000000"], [], "no people"),
        ([], ["0.png"], "6 photos"),
        ([], ["nothing.png"], "no photo"),
    ):
        with pytest.raises(BadInput, match=said):
            plan_purge(own, people, photos)
    (photo,) = plan_purge(own, [], ["person5/0.png"]).photos
    purge(own, plan_purge(own, [], [photo]))
    assert plan_purge(own, [], [photo]).photos == ()
    purge(own, plan_purge(own, [], [photo]))
    assert len(rows(own, Purge)) == 1


def test_the_same_picture_in_another_file_goes_along_and_another_face_with_the_same_vector_stays(own):
    """Tests with person0 of the doubles. The colour of person0 is gray, so all its faces have the same embedding."""
    faces = {face.face_id: face for face in rows(own, Face)}
    mine = sorted(face for face in faces_in(own, "person0") if faces[face].shard)
    twin = dataclasses.replace(faces[mine[1]], phash=faces[mine[0]].phash)
    with Ledger.open(own, write=True) as ledger:
        ledger.record("double", "twin", {}, [twin])
    plan = plan_purge(own, [], [faces[mine[0]].photo_id])
    assert {mine[0], mine[1]} <= set(plan.faces) and not set(mine[2:]) & set(plan.faces)
    assert purge(own, plan).proof.remains == () and check_ledger(own) == []


def test_two_datasets_of_the_same_photos_give_people_other_ids(tmp_path):
    photos = doubles.album(tmp_path / "photos", people=3, each=2)
    for name in ("one", "two"):
        with pytest.MonkeyPatch.context() as patch:
            doubles.install(patch)
            patch.setattr("manifests.privacy.keys.create_key", lambda: os.urandom(32))
            doubles.curated(photos, tmp_path / name)
    one, two = ({row.identity_id for row in rows(tmp_path / name, Identity)} for name in ("one", "two"))
    assert len(one) == len(two) == 3 and not one & two
    key = tmp_path / "one" / KEY_NAME
    assert key.stat().st_mode & 0o777 == 0o600 and key.read_bytes() != (tmp_path / "two" / KEY_NAME).read_bytes()
    # A dataset with the same key has the same ids.
    (tmp_path / "three").mkdir()
    shutil.copy(key, tmp_path / "three" / KEY_NAME)
    curated(photos, tmp_path / "three")
    assert {row.identity_id for row in rows(tmp_path / "three", Identity)} == one
    # If the key is lost, or is the key of another dataset, the command refuses and makes no new key.
    key.unlink()
    with pytest.raises(LedgerError, match="missing or broken"):
        curated(photos, tmp_path / "one")
    shutil.copy(tmp_path / "two" / KEY_NAME, key)
    with pytest.raises(LedgerError, match="another dataset"):
        curated(photos, tmp_path / "one")


def test_the_card_says_what_there_is_and_follows_a_purge(own):
    text = (own / CARD).read_text()
    assert "| photos in use | 26 |" in text and "not stated" in text and "## Models" in text
    purge(own, plan_purge(own, [], ["person5/0.png"]))
    after = (own / CARD).read_text()
    assert "| photos in use | 25 |" in after and "photos, purged | 1" in after


def test_who_was_trained_on_stays_there_when_the_frozen_set_goes(own):
    splits = rows(own, Split)
    before = {row.face_id: row.split for row in splits}
    with Ledger.open(own, write=True) as ledger:  # changes the rows as if only the test split were frozen
        ledger.record("double", "all", {}, [dataclasses.replace(row, locked=row.split == "test") for row in splits])
    shown = {row.face_id: row.photo_id for row in rows(own, Face)}
    tested = sorted({shown[face] for face, split in before.items() if split == "test"})
    purge(own, plan_purge(own, [], tested))
    left = rows(own, Split)
    assert left and all(row.locked and row.split == before[row.face_id] for row in left)
    assert "test" not in {row.split for row in left}


def test_runs_and_benchmarks_forget_too_and_their_checkpoints_are_named(tmp_path):
    """Tests that snapshots, sheets, pages, results and benchmarks are erased.

    Crops, references and embeddings of a snapshot are erased in place. A benchmark is removed as a whole.
    """
    from tests.doubles import training as train_doubles
    from train.data.snapshot import load_snapshot
    from train.data.take_snapshot import take_snapshot

    recognizer = train_doubles.recognizer_onnx(tmp_path / "recognizer.onnx")
    dataset = train_doubles.dataset(tmp_path / "dataset", recognizer)
    gone = train_doubles.face_of(1, 2)
    with Ledger.open(dataset, write=True) as ledger:
        photos = [Photo(face.photo_id, 9, 9, "0") for face in ledger.read_rows(Face)]
        ledger.record("double", "photos", {}, photos)
    run = dataset / "run"
    before = take_snapshot(dataset, run / "snapshot", 32, train_doubles.models_of(recognizer))
    elsewhere = Path(shutil.copytree(run / "snapshot", tmp_path / "elsewhere" / "snapshot"))
    row = before.face_ids.index(gone.face_id)
    pixels, vector = before.crops[row].tobytes(), before.embeddings[row].tobytes()
    large_pixels = before.large_crops[before.large_rows[row]].tobytes()
    config = {"recipe": {}, "snapshot": {"hash": before.hash}}
    (run / "config.json").write_text(json.dumps(config))
    for name in (
        "checkpoint-00000016/model.safetensors",
        "samples/00000016.png",
        "evaluation.html",
        "stats.jsonl",
        "evaluation-cache.sqlite",
    ):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(b"x")
    (run / "evaluation.json").write_text(json.dumps({"images": [gone.face_id]}))
    (run / "other.json").write_text("{}")
    pq.write_table(pa.table({"face_id": [gone.face_id] * 9, "psnr": [1.0] * 9}), run / "evaluation.parquet")
    pq.write_table(pa.table({"face_id": ["f" * 32], "psnr": [1.0]}), run / "others.parquet")
    (run / "restored").mkdir()
    (run / "restored" / "old.json").write_text('{"faces": [{"lq": "data:image/webp;base64,AAAA"}]}')
    (run / "stranger.json").write_text('{"shown_identity_id": "p-0123456789ab"}')
    bench = tmp_path / "elsewhere" / "bench"
    (bench / "pictures").mkdir(parents=True)
    (bench / "faces.jsonl").write_text(json.dumps({"face": gone.face_id}))
    for name in ("card.json", "cases.jsonl", "embeddings.npy", "pictures/a.png"):
        (bench / name).write_bytes(b"x")
    plan = plan_purge(dataset, [], [gone.photo_id], [tmp_path / "elsewhere"])
    # changes the plan as if the people of the photo had no other photo
    plan = dataclasses.replace(plan, people=("p-0123456789ab",))
    assert plan.checkpoints == (str(run / "checkpoint-00000016"),)
    done = purge(dataset, plan)
    assert (run / "checkpoint-00000016" / "model.safetensors").exists() and done.removed["benchmarks"] == 1
    left = sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file() and path.parent == run)
    assert left == ["config.json", "other.json", "others.parquet", "stats.jsonl"] and not bench.exists()
    assert not list((run / "restored").iterdir())
    assert not list((run / "samples").iterdir())
    for folder in (run / "snapshot", elsewhere):
        after = load_snapshot(folder)
        kept = [place for place, face in enumerate(before.face_ids) if face != gone.face_id]
        assert list(after.face_ids) == [before.face_ids[place] for place in kept]
        assert (after.crops == before.crops[kept]).all() and (after.embeddings == before.embeddings[kept]).all()
        assert pixels not in (folder / "crops.npy").read_bytes()
        assert large_pixels not in (folder / "large_crops.npy").read_bytes()
        for place, face in enumerate(after.face_ids):
            was = before.references[before.face_ids.index(face)]
            wanted = {before.face_ids[ref] for ref in was} - {gone.face_id}
            assert {after.face_ids[ref] for ref in after.references[place]} == wanted
        assert after.hash != before.hash and sha256_file(folder / "crops.npy") == after.facts["crops_sha256"]
        assert after.facts["counts"]["faces"] == len(before.face_ids) - 1 == len(after.crops)
    # The purge did not change the weights, so the next purge names the same checkpoint again.
    (next_one,) = {face.photo_id for face in rows(dataset, Face) if face.face_id == train_doubles.face_of(0, 2).face_id}
    assert plan_purge(dataset, [], [next_one]).checkpoints == (str(run / "checkpoint-00000016"),)
    assert not any(vector in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_folder_with_another_programs_snapshot_json_is_no_snapshot(tmp_path):
    (tmp_path / "snapshot.json").write_text('{"version": 4}')
    assert find_faces_in_runs([tmp_path], ["face"]) == [] and not remove_faces_from_runs([tmp_path], ["face"])
    assert (tmp_path / "snapshot.json").is_file()


def test_a_snapshot_with_a_truncated_array_must_be_removed_before_a_purge(tmp_path):
    from tests.doubles import training as train_doubles

    taken = train_doubles.snapshot(tmp_path)
    for name, function in (("embeddings.npy", remove_faces_from_runs), ("crops.npy", find_faces_in_runs)):
        os.truncate(taken.folder / name, 300)
        with pytest.raises(LedgerBroken, match=rf"{name} cannot be read, .* Remove the folder .*snapshot"):
            function([tmp_path], [taken.face_ids[0]])


def test_a_snapshot_of_another_version_must_be_removed_before_a_purge(tmp_path):
    (tmp_path / "faces.parquet").touch()
    (tmp_path / "snapshot.json").write_text('{"version": 4}')
    with pytest.raises(LedgerBroken, match=r"Another version of Likeness made the snapshot .* Remove this folder"):
        remove_faces_from_runs([tmp_path], ["face"])


def test_a_purged_person_is_not_named_in_a_snapshot(tmp_path):
    from tests.doubles import training as train_doubles
    from train.data.snapshot import load_snapshot

    taken = train_doubles.snapshot(tmp_path)
    masks = np.random.default_rng(0).integers(0, 256, (len(taken.face_ids), 32 * 32 // 8), np.uint8)
    np.save(taken.folder / "valid.npy", masks)  # in the snapshot of the double, all masks are equal
    with pa.ipc.new_file(str(tmp_path / "batches"), taken.faces.schema) as writer:
        writer.write_table(taken.faces, max_chunksize=7)
    (tmp_path / "batches").replace(taken.folder / "faces.arrow")

    def files_of(snapshot, row):
        large = snapshot.large_crops[[at for at in (snapshot.large_rows[row],) if at >= 0]]
        return [snapshot.crops[row], snapshot.valid(row), snapshot.landmarks[row], snapshot.embeddings[row], large]

    before = {face: files_of(taken, row) for row, face in enumerate(taken.face_ids)}
    faces = [face for face, person in zip(taken.face_ids, taken.identity_ids, strict=True) if person == "person1"]
    remove_faces_from_runs([tmp_path / "snapshot"], faces)
    after = load_snapshot(tmp_path / "snapshot")
    assert set(after.identity_ids) == set(taken.identity_ids) - {"person1"}
    assert after.facts["counts"]["people"] == {"train": 3, "val": 1}
    assert after.facts["counts"]["targets"] == {"train": 12, "val": 4} and len(after.large_crops) == 12
    for place, face in enumerate(after.face_ids):
        assert all((one == other).all() for one, other in zip(files_of(after, place), before[face], strict=True))
    assert b"person1" not in (tmp_path / "snapshot" / "faces.arrow").read_bytes()


def test_a_snapshot_is_thinned_whole_or_not_at_all(tmp_path, monkeypatch):
    from tests.doubles import training as train_doubles
    from train.data.snapshot import load_snapshot

    taken, gone = train_doubles.snapshot(tmp_path), train_doubles.face_of(0, 1).face_id
    plain = shutil.rmtree

    def dies(path, **more):
        plain(path, **more)
        if Path(path).name == "snapshot":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("manifests.privacy.run_cleanup.shutil.rmtree", dies)
        remove_faces_from_runs([tmp_path], [gone])
    assert not (tmp_path / "snapshot").exists()
    remove_faces_from_runs([tmp_path], [gone])
    assert list(load_snapshot(tmp_path / "snapshot").face_ids) == [face for face in taken.face_ids if face != gone]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.exhaustive
def test_a_person_of_real_photos_is_gone_from_every_byte(likeness, shared_data, tmp_path):
    """Runs curate, degrade, snapshot, report and purge as commands, and then searches all bytes of the folder."""
    photos, dataset = tmp_path / "photos", tmp_path / "dataset"
    albums = sorted((shared_data / "people_crops").iterdir())[:5]
    for person in albums:
        for path in sorted(person.iterdir())[:5]:
            (photos / person.name).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, photos / person.name / path.name)
    faces = f"insightface:{shared_data / 'weights' / 'insightface_small'}"
    doubles.curated(photos, dataset, faces=faces, screen=FILTER_SETS["keep-outside"])
    for split in ("train", "test"):
        make_set(dataset, "codeformer", split, 0, 64, workers=1)
    from train.data.take_snapshot import take_snapshot

    taken = take_snapshot(dataset, dataset / "run" / "snapshot", 64)
    build_report(dataset)
    (person, _), *_ = Counter(taken.identity_ids[row] for row in taken.find_rows("train")).most_common()
    members = {row.face_id for row in rows(dataset, Membership) if row.identity_id == person}
    mine = {row.photo_id for row in rows(dataset, Face) if row.face_id in members}
    needles = {row.face_id.encode() for row in rows(dataset, Face) if row.photo_id in mine}
    needles |= {photo.encode() for photo in mine} | {bytes.fromhex(photo) for photo in mine} | {person.encode()}
    needles |= {row.uri.encode() for row in rows(dataset, File) if row.photo_id in mine}
    with Ledger.open(dataset) as ledger:
        vectors = {row.tobytes() for row in ledger.read_embeddings(sorted(members))[1]}
    needles |= vectors
    pictures = {path.read_bytes() for path in dataset.rglob("*.png") if path.stem in members}
    pixels = [taken.crops[taken.face_ids.index(face)].tobytes() for face in members if face in taken.face_ids]
    assert len(pictures) >= 2 * len(members) and pixels
    # the tables are searched as rows, because DuckDB may compress the hashes and names in its file
    before = contents(dataset)
    ids = [face.encode() for face in members]
    assert all(any(needle in one for one in before) for needle in [*vectors, *pixels, *ids])

    told = likeness("manifest", "purge", dataset, "--person", person, "--yes")
    assert told.returncode == 0 and "nothing is left" in told.stdout, told.stderr + told.stdout
    data = contents(dataset)
    assert not any(needle in one for needle in [*needles, *pixels] for one in data)
    assert not pictures & set(data)
    assert check_ledger(dataset) == []
    # The dataset can still be used for training, and the purged photos stay out of the training.
    assert len(take_snapshot(dataset, tmp_path / "again", 64).find_rows("train"))
    assert doubles.curated(photos, dataset).files["purged"] == len(mine)
    assert not any(needle in one for needle in needles for one in contents(dataset))


def contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]
