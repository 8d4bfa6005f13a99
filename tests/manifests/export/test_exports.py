"""Tests that each export can be read with the library of its format, or by the rules of the loader of its format."""

import ast
import io
import json
import random
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import typer
from PIL import Image, PngImagePlugin
from typer.testing import CliRunner

from curate.faces.align import FFHQ_512, fit_similarity, transform_points
from manifests.errors import BadInput, LedgerBroken
from manifests.export import cli
from manifests.export.export_dataset import CARD, export_dataset
from manifests.export.formats import FORMATS
from manifests.export.layouts import dmdnet
from manifests.export.selection import ExportOptions
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.ledger.records import Face, Identity, Membership, Model, Split
from tests.doubles.curation import rows
from tests.doubles.exports import (
    ALL,
    LQ_SET,
    change,
    consent,
    frozen_faces,
    pairs_of,
    splits_of,
    tree,
    wanted,
)
from tests.places import REPOSITORY


def pixels(path: Path) -> np.ndarray:
    return cv2.imread(str(path))


def crop(dataset: Path, face: str) -> np.ndarray:
    return pixels(crop_path(dataset, face))


def frozen_pairs(dataset: Path) -> dict[str, tuple[str, ...]]:
    frozen = frozen_faces(dataset)
    return {target: refs for target, refs in pairs_of(dataset).items() if target in frozen}


# --- each format ---


def test_imagefolder_opens_with_datasets(made, tmp_path, monkeypatch):
    export_dataset(made, tmp_path / "out", "imagefolder", wanted("imagefolder"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    import datasets

    found = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    names = {"train": "train", "validation": "val", "test": "test"}
    assert set(found) == set(names)
    seen = {row["face_id"]: (names[split], row) for split in found for row in found[split]}
    assert {face: split for face, (split, _) in seen.items()} == splits_of(made)
    assert {face: tuple(row["references"]) for face, (_, row) in seen.items() if row["is_target"]} == pairs_of(made)
    owner = {row.face_id: row.identity_id for row in rows(made, Membership)}
    measured = {row.face_id: row for row in rows(made, Face)}
    for face, (split, row) in seen.items():
        assert row["identity"] == owner[face] and row["split"] == split and row["consent"] is None
        assert row["sharpness"] == measured[face].sharpness and row["noise"] == measured[face].noise
        assert (np.asarray(row["image"])[:, :, ::-1] == crop(made, face)).all()
        assert not {"name", "embedding"} & set(row)
        if split == "test":
            assert np.asarray(row["lq"]).shape == (32, 32, 3)


def test_webdataset_opens_with_webdataset_and_its_index_finds_each_sample(made, tmp_path):
    import webdataset

    out = tmp_path / "out"
    export_dataset(made, out, "webdataset", wanted("webdataset", shard_bytes=2**20))
    shards = sorted(map(str, out.rglob("*.tar")))
    assert len(shards) > 3 and all(Path(shard).stat().st_size <= 2**20 for shard in shards)
    found = {}
    for sample in webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).decode("rgb8"):
        found[sample["__key__"]] = sample
        assert (sample["png"][:, :, ::-1] == crop(made, sample["__key__"])).all()
        assert ("lq.png" in sample) == (sample["json"]["split"] == "test") and "npy" not in sample
    assert {key: sample["json"]["split"] for key, sample in found.items()} == splits_of(made)
    told = {key: tuple(one["json"]["references"]) for key, one in found.items() if one["json"]["is_target"]}
    assert told == pairs_of(made)
    index = pq.read_table(out / "index.parquet").to_pylist()
    assert {row["key"]: row["split"] for row in index} == splits_of(made)
    for row in index:
        data = (out / row["shard"]).read_bytes()[row["offset"] : row["offset"] + row["bytes"]]
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            assert {member.name.partition(".")[0] for member in tar} == {row["key"]}


def test_refldm_opens_as_its_dataset_reads_it(made, tmp_path):
    out = tmp_path / "out"
    export_dataset(made, out, "refldm", wanted("refldm"))
    found, splits = {}, {}
    for split in ("train", "val", "test"):
        frame = pd.read_csv(out / "reference_mapping" / f"{split}_references.csv")
        assert list(frame.columns) == ["gt_image", "ref_image"] + (["lq_image"] if split == "test" else [])
        frame["ref_image"] = frame["ref_image"].apply(ast.literal_eval)
        for _, row in frame.iterrows():
            found[Path(row["gt_image"]).stem] = tuple(Path(name).stem for name in row["ref_image"])
            for name in (row["gt_image"], *row["ref_image"]):
                assert pixels(out / "images512x512" / name).shape == (512, 512, 3)
            if split == "test":
                assert pixels(out / "test_images" / LQ_SET / row["lq_image"]).shape == (32, 32, 3)
        names = (out / "id_based_ffhq_split" / f"{split}_image.txt").read_text().split()
        splits |= {Path(name).stem: split for name in names}
    assert found == pairs_of(made) and splits == splits_of(made)


def read_dmdnet(out: Path) -> dict[str, dict[str, np.ndarray]]:
    """Returns for each target its references with 68 points, by the rules of DMDNet's main_test.py.

    main_test.py uses every file in the folder of references.
    """
    found = {}
    for line in (out / "SpecificLists.txt").read_text().split("\n"):
        if not line:
            continue
        lq, references, landmarks = line.strip().split("\t")
        assert (out / lq).is_file() and len(list((out / references).iterdir())) >= 2
        found[Path(lq).stem] = points = {}
        for name in (path.name for path in (out / references).iterdir()):
            text = (out / landmarks / f"{name}.txt").read_text().splitlines(keepends=True)
            points[Path(name).stem] = np.array([[float(i) for i in row.split(" ") if i != "\n"] for row in text])
    return found


def test_dmdnet_opens_as_its_loader_reads_it_with_landmarks_on_the_crop(made, tmp_path):
    export_dataset(made, tmp_path / "out", "dmdnet", wanted("dmdnet"))
    found = read_dmdnet(tmp_path / "out")
    assert {target: set(refs) for target, refs in found.items()} == {
        target: set(refs) for target, refs in frozen_pairs(made).items()
    }
    faces = {row.face_id: row for row in rows(made, Face)}
    for target, refs in found.items():
        assert target not in refs
        for ref, points in refs.items():
            five = np.array(faces[ref].landmarks5).reshape(5, 2)
            there = transform_points(np.array(faces[ref].landmarks68).reshape(68, 2), fit_similarity(five, FFHQ_512))
            assert points.shape == (68, 2) and np.abs(points - there).max() < 1e-3


def test_the_crop_template_is_that_of_curation():
    assert (dmdnet.FFHQ_512 == FFHQ_512).all()


def test_instantrestore_opens_as_its_loaders_read_it(made, tmp_path):
    out = tmp_path / "out"
    export_dataset(made, out, "instantrestore", wanted("instantrestore"))
    splits, owner = splits_of(made), {row.face_id: row.identity_id for row in rows(made, Membership)}
    train = {path.stem: path.parent.parent.name for path in (out / "train").glob("*/cropped_images/*")}
    assert train == {face: owner[face] for face, split in splits.items() if split == "train"}
    people = [path for path in (out / "train").iterdir() if len(list(path.glob("cropped_images/*"))) > 1]
    assert {path.name for path in people} == set(train.values())
    found = {}
    for case in (out / "test").iterdir():
        assert pixels(case / "degraded.png").shape == (32, 32, 3)
        assert (pixels(case / "gt.png") == crop(made, case.name)).all()
        found[case.name] = tuple(path.stem.split("_")[1] for path in sorted((case / "conditioning").glob("*.png")))
    assert found == frozen_pairs(made) and not (out / "val").exists()


def test_faceme_opens_as_its_dataset_reads_it_but_for_clip(made, tmp_path):
    out = tmp_path / "out"
    told = export_dataset(made, out, "faceme", wanted("faceme", embeddings=True))
    assert any("CLIP" in notice for notice in told.notices) and any("biometric" in notice for notice in told.notices)
    with Ledger.open(made) as ledger:
        vectors = dict(zip(*ledger.read_embeddings(), strict=True))
    crops = {crop(made, face).tobytes(): face for face in vectors}
    found = {}
    for split in ("train", "val", "test"):
        for line in (out / f"{split}.json").read_text().splitlines():
            case = json.loads(line)
            target = Path(case["target"]).stem
            ids, clips = case["ref_emb"]
            assert len(ids) == len(clips) and not any((out / path).exists() for path in clips)
            here = np.load(out / case["target_emb"][0])
            assert here.dtype == np.float32 and (here == vectors[target][None]).all()
            assert (pixels(out / case["target"]) == crop(made, target)).all()
            # preprocess.py builds the path from the name of the picture and from the last three characters of the
            # folder's name.
            pictures = {path.parent.name[-3:]: path for path in out.glob(f"ffhqref/*/*/{target}.png")}
            refs = []
            for path in ids:
                ref = crops[pixels(pictures[Path(path).stem]).tobytes()]
                assert (np.load(out / path)[0] == vectors[ref]).all()
                refs.append(ref)
            found[target] = tuple(refs)
    assert found == pairs_of(made)


# --- all formats ---


@pytest.mark.parametrize("name", ALL)
def test_the_same_dataset_gives_the_same_bytes_and_a_repeat_says_so(made, tmp_path, name):
    first = export_dataset(made, tmp_path / "a", name, wanted(name))
    export_dataset(made, tmp_path / "b", name, wanted(name))
    files = tree(tmp_path / "a")
    assert files == tree(tmp_path / "b") and first.written and first.files == len(files) - 1
    again = export_dataset(made, tmp_path / "a", name, wanted(name))
    assert not again.written and "already" in again.notices[0] and tree(tmp_path / "a") == files
    victim = next(path for path in sorted((tmp_path / "a").rglob("*.*")) if path.is_file() and path.name != CARD)
    victim.unlink()
    with pytest.raises(BadInput, match="files are missing"):
        export_dataset(made, tmp_path / "a", name, wanted(name))


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_said_that_was_not_asked_for(own, tmp_path, name):
    """Tests that an export contains no names, embeddings, hashes, paths or metadata, unless the user asks for them."""
    person = rows(own, Identity)
    change(own, [Identity(row.identity_id, f"Ann-{i}", row.locked) for i, row in enumerate(person)])
    target = next(iter(pairs_of(own)))
    path = crop_path(own, target)
    secret = PngImagePlugin.PngInfo()
    secret.add_text("GPS", "52.5 N 13.4 E")
    with Image.open(path) as image:
        image.load()
    image.save(path, pnginfo=secret, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0")
    assert b"52.5 N" in path.read_bytes()
    export_dataset(own, tmp_path / "out", name, wanted(name))
    photos = {row.photo_id for row in rows(own, Face)}
    with Ledger.open(own) as ledger:
        vectors = [vector.tobytes() for vector in ledger.read_embeddings()[1]]
    for file, data in tree(tmp_path / "out").items():
        assert not any(word in data for word in (b"Ann-", b"52.5 N", b"eXIf", b"tEXt", str(own).encode())), file
        assert not any(photo.encode() in data for photo in photos), file
        assert not any(vector in data for vector in vectors) and not file.endswith(".npy"), file


@pytest.mark.parametrize("name", ["imagefolder", "webdataset"])
def test_names_and_embeddings_go_along_where_asked_for(own, tmp_path, name):
    change(own, [Identity(row.identity_id, "Ann", row.locked) for row in rows(own, Identity)])
    told = export_dataset(own, tmp_path / "out", name, wanted(name, names=True, embeddings=True))
    with Ledger.open(own) as ledger:
        vectors = dict(zip(*ledger.read_embeddings(), strict=True))
    if name == "imagefolder":
        table = pq.read_table(tmp_path / "out" / "train" / "metadata.parquet").to_pylist()
        said = [(row["face_id"], row["name"], row["embedding"]) for row in table]
    else:
        import webdataset

        shard = str(tmp_path / "out" / "train" / "000000.tar")
        samples = webdataset.WebDataset(shard, shardshuffle=False).decode()
        said = [(one["__key__"], one["json"]["name"], one["npy"].tolist()) for one in samples]
    assert said and all(who == "Ann" and vector == vectors[face].tolist() for face, who, vector in said)
    (model,) = [row for row in rows(own, Model) if row.role == "recognizer"]
    notice = f"biometric data. The model {model.file} computed the 3 numbers of each embedding."
    assert any(notice in text for text in told.notices)
    recognizer = json.loads((tmp_path / "out" / CARD).read_bytes())["recognizer"]
    # `spec` is left out, because it may contain the path of a folder of this machine.
    assert recognizer["sha256"] == model.sha256 and "spec" not in recognizer


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("said", ["no", " Withdrawn "])
def test_a_photo_whose_consent_refuses_is_in_no_export(own, tmp_path, name, said):
    target = sorted(frozen_pairs(own))[0]
    photo = next(row.photo_id for row in rows(own, Face) if row.face_id == target)
    consent(own, photo, said)
    told = export_dataset(own, tmp_path / "out", name, wanted(name))
    assert told.left_out["faces"]["consent_refused"] == 1 and told.left_out["references"]["consent_refused"] >= 3
    assert told.left_out["targets"]["consent_refused"] == 1
    picture = crop_path(own, target).read_bytes()
    for file, data in tree(tmp_path / "out").items():
        assert target not in file and target.encode() not in data and picture not in data, file


def test_a_consent_that_refuses_a_copy_refuses_the_face_that_stands_for_it(own, tmp_path):
    keeper, copy = rows(own, Face)[:2]
    change(
        own,
        [
            Face(**{**vars(copy), "status": "dropped", "reason": "near_duplicate", "duplicate_of": keeper.face_id}),
        ],
    )
    consent(own, copy.photo_id, "no")
    told = export_dataset(own, tmp_path / "out", "imagefolder", ExportOptions())
    assert told.left_out["faces"]["consent_refused"] == 1
    assert not list((tmp_path / "out").rglob(f"{keeper.face_id}.png"))


def test_only_the_split_that_was_asked_for(made, tmp_path):
    told = export_dataset(made, tmp_path / "out", "imagefolder", ExportOptions("train"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == ["likeness_tables", "train"]
    assert told.targets == {"train": sum(split == "train" for split in splits_of(made).values())}


def test_a_dataset_split_by_photos_says_that_one_person_is_on_both_sides(own, tmp_path):
    change(own, [Split(**{**vars(row), "policy": "photos"}) for row in rows(own, Split)])
    assert (
        "same person can be in train and in test"
        in export_dataset(own, tmp_path / "out", "refldm", ExportOptions()).notices[0]
    )
    assert json.loads((tmp_path / "out" / CARD).read_bytes())["split_policy"] == "photos"


def test_what_is_set_aside_is_counted_with_its_reason(own, tmp_path):
    aside = next(row for row in rows(own, Split) if row.split == "train")
    change(own, [Split(**{**vars(aside), "status": "dropped", "reason": "photo_spans_splits"})])
    told = export_dataset(own, tmp_path / "out", "refldm", ExportOptions())
    assert told.left_out["faces"] == {"photo_spans_splits": 1}
    assert not (tmp_path / "out" / "images512x512" / f"{aside.face_id}.png").exists()


def test_dmdnet_counts_references_without_landmarks_and_targets_with_fewer_than_two(own, tmp_path):
    target, refs = sorted(frozen_pairs(own).items())[0]
    faces = {row.face_id: row for row in rows(own, Face)}
    bare = [Face(**{**vars(faces[ref]), "landmarks68": None}) for ref in refs[:2]]
    change(own, bare)
    told = export_dataset(own, tmp_path / "out", "dmdnet", wanted("dmdnet"))
    found = read_dmdnet(tmp_path / "out")
    assert target not in found and told.left_out["targets"]["fewer_than_two_references"] == 2
    assert told.left_out["references"]["no_landmarks68"] == 6 and told.targets["test"] == len(found) == 2
    lines = (tmp_path / "out" / "likeness_set" / "theta.jsonl").read_text().splitlines()
    assert {Path(json.loads(line)["file"]).stem for line in lines} == set(found)
    change(own, [Face(**{**vars(face), "landmarks68": None}) for face in rows(own, Face)])
    with pytest.raises(BadInput, match="--landmarks dlib"):
        export_dataset(own, tmp_path / "none", "dmdnet", wanted("dmdnet"))
    assert not (tmp_path / "none").exists()


def test_a_killed_export_leaves_nothing_and_its_rest_is_swept(made, tmp_path, monkeypatch):
    out = tmp_path / "out"
    left = tmp_path / ".out.999999999.tmp"
    left.mkdir()
    (left / "half.png").write_bytes(b"half")

    def broken(selection, folder):
        folder.add_bytes("one.txt", b"1")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(FORMATS, "refldm", FORMATS["refldm"].__class__(FORMATS["refldm"].keep, broken, "taken", 0, 0))
        with pytest.raises(KeyboardInterrupt):
            export_dataset(made, out, "refldm", ExportOptions())
    assert list(tmp_path.iterdir()) == []
    out.mkdir()  # an empty folder may exist before the export
    assert export_dataset(made, out, "refldm", ExportOptions()).written


_SLOWLY = """
import sys, time
from pathlib import Path
from manifests.export import export_dataset, output_folder
whole = output_folder.strip_png_metadata
output_folder.strip_png_metadata = lambda source: time.sleep(0.2) or whole(source)
export_dataset.export_dataset(Path(sys.argv[1]), Path(sys.argv[2]), "refldm", export_dataset.ExportOptions())
"""


def test_a_process_that_is_killed_leaves_no_export_and_the_next_one_sweeps(made, tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", _SLOWLY, made, out], cwd=REPOSITORY)
    until = time.monotonic() + 60
    while len(list(tmp_path.glob(".out.*.tmp/images512x512/*"))) < 3 and time.monotonic() < until:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not out.exists() and len(list(tmp_path.glob(".out.*.tmp"))) == 1
    assert export_dataset(made, out, "refldm", ExportOptions()).written
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    export_dataset(made, tmp_path / "other", "refldm", ExportOptions())
    assert tree(out) == tree(tmp_path / "other")


def test_a_broken_or_missing_picture_is_one_sentence_and_no_export(own, tmp_path):
    path = crop_path(own, next(iter(pairs_of(own))))
    data = bytearray(path.read_bytes())
    for broken in (data[:-30], data[:100] + b"\0" + data[101:], b"", b"GIF89a"):
        path.write_bytes(broken)
        with pytest.raises(LedgerBroken, match="missing or broken"):
            export_dataset(own, tmp_path / "out", "imagefolder", ExportOptions())
    path.unlink()
    with pytest.raises(LedgerBroken, match="missing or broken"):
        export_dataset(own, tmp_path / "out", "webdataset", ExportOptions())
    assert not (tmp_path / "out").exists() and sorted(p.name for p in tmp_path.iterdir()) == ["dataset"]


def test_options_that_a_format_has_no_place_for_and_folders_that_are_taken_are_refused(made, tmp_path):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    cases = [
        (("dmdnet", ExportOptions()), "--set"),
        (("faceme", ExportOptions(lq_set=LQ_SET)), "has no place for low-quality images"),
        (("refldm", ExportOptions(names=True)), "no place for names"),
        (("refldm", ExportOptions(embeddings=True)), "no place for embeddings"),
        (("zip", ExportOptions()), "Write one of refldm"),
        (("refldm", ExportOptions("dev")), "Write train, val or test, or leave --split out"),
        (("refldm", ExportOptions(lq_set="no-such")), LQ_SET),
        (("refldm", ExportOptions("train", lq_set=LQ_SET)), "contains no target of --split train"),
    ]
    for (name, asked), said in cases:
        with pytest.raises(BadInput, match=said):
            export_dataset(made, tmp_path / "out", name, asked)
    for place, said in (
        (taken, "not empty"),
        (taken / "mine.txt", "is a file"),
        (made / "out", "is inside the dataset"),
    ):
        with pytest.raises(BadInput, match=said):
            export_dataset(made, place, "refldm", ExportOptions())
    assert [path.name for path in tmp_path.iterdir()] == ["taken"] and tree(taken) == {"mine.txt": b"mine"}


def test_another_state_is_not_taken_for_the_same_export(own, tmp_path):
    export_dataset(own, tmp_path / "out", "imagefolder", ExportOptions())
    consent(own, rows(own, Face)[0].photo_id, "no")
    with pytest.raises(BadInput, match="does not contain this export"):
        export_dataset(own, tmp_path / "out", "imagefolder", ExportOptions())


def test_the_order_of_an_export_follows_from_the_dataset_alone(own, tmp_path):
    """Tests that the export does not change if the rows were written in another order."""
    export_dataset(own, tmp_path / "a", "webdataset", wanted("webdataset"))
    faces = rows(own, Face)
    random.Random(0).shuffle(faces)
    change(own, faces)
    export_dataset(own, tmp_path / "b", "webdataset", wanted("webdataset"))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


# --- the command ---


def call(*words: object):
    app = typer.Typer()
    app.command()(cli.export)
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_command_says_what_it_wrote_and_what_it_would(made, tmp_path):
    words = (made, "--format", "instantrestore", "--out", tmp_path / "out")
    dry = call(*words, "--dry-run")
    assert dry.exit_code == 0 and "The command would write about" in dry.stdout and not (tmp_path / "out").exists()
    assert "left out, targets: 8 needs_lq_set" in dry.stdout
    told = json.loads(call(*words, "--json").stdout)
    assert told["written"] and told["targets"] == {"train": 12, "val": 0, "test": 0} and not told["dry_run"]
    assert "already" in call(*words).stdout
    assert isinstance(call(*words, "--shard-mib", 5).exception, BadInput)
    shards = call(made, "--format", "webdataset", "--out", tmp_path / "w", "--shard-mib", 1)
    assert shards.exit_code == 0 and len(list((tmp_path / "w").rglob("*.tar"))) > 3
