"""Makes a dataset of people who do not exist. A small recipe trains on this dataset in seconds.

If this file is started as a script, it trains the small recipe with a discriminator on one thread, and a test can kill
the process: `python -m tests.doubles.training SNAPSHOT RUN IMAGES [PROCESSES]`. With PROCESSES, torchrun's agent starts
this number of trainers. Each trainer writes its process id into the file RUN.RANK.
"""

import os
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import helper, numpy_helper

from curate.faces.align import ARCFACE_112, FFHQ_512, align_face, crop_for_recognizer, scale_template
from curate.faces.interface import Detection, FaceDetector, FaceModels, ModelFile, normalise_rows
from curate.faces.load import load_faces
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.ledger.records import Face, Model, Pair, Photo, Split
from manifests.pictures.images import decode
from manifests.runtime.files import sha256_file
from train.data.snapshot import Snapshot
from train.data.take_snapshot import take_snapshot
from train.models.config import VreConfig
from train.recipes.recipes import TINY, Recipe, find_recipe

DIM = 16
SMALL: Recipe = replace(
    find_recipe("tiny"),
    name="small",
    size=32,
    latent_factor=4,
    mixture={},
    fine_repeats=1,
    gray_share=0.0,
    wrong_share=0.0,
    channels=(16, 16, 24),
    reference_channels=(8, 16, 16),
    refine_channels=4,
    images=24,
    batch=4,
    warmup=8,
    decay_from=16,
    cooldown=0,
    ema=8,
)
# This is the small recipe with a discriminator.
ADVERSARIAL: Recipe = replace(SMALL, name="adversarial", losses={**SMALL.losses, "gan": 0.01}, discriminator="latent")


def small(name: str, base: str = TINY) -> Recipe:
    """Returns the recipe `name` of train/recipes/recipes.py, made small enough for ten training steps in a test.

    On the base tiny, the networks are as small as in SMALL.
    """
    recipe = replace(
        find_recipe(name, base),
        size=SMALL.size if base == TINY else 64,
        vre=VreConfig(SMALL.size, 8, (1, 2), 16, 8, 4),
        reference_channels=SMALL.reference_channels,
        **{field: getattr(SMALL, field) for field in ("images", "batch", "warmup", "decay_from", "cooldown", "ema")},
    )
    return recipe if base != TINY else replace(recipe, channels=SMALL.channels, refine_channels=SMALL.refine_channels)


def recognizer_onnx(path: Path, seed: int = 0) -> Path:
    """Writes an ONNX file of four nodes that reads crops of 112 px and returns DIM numbers, like a recognizer."""
    rng = np.random.default_rng(seed)
    kernel = rng.normal(0, 0.1, (8, 3, 16, 16)).astype(np.float32)
    dense = rng.normal(0, 0.1, (8 * 49, DIM)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["data", "kernel"], ["a"], strides=[16, 16], kernel_shape=[16, 16]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Flatten", ["b"], ["c"]),
        helper.make_node("Gemm", ["c", "dense"], ["embedding"]),
    ]
    floats = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "recognizer",
        [helper.make_tensor_value_info("data", floats, ["N", 3, 112, 112])],
        [helper.make_tensor_value_info("embedding", floats, ["N", DIM])],
        [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(dense, "dense")],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def models_of(file: Path, differentiable: bool = True) -> FaceModels:
    """Returns face models whose recognizer is `file`."""
    return FaceModels(
        spec="double",
        detect=lambda image: [],
        embed=lambda crops: normalise_rows(np.ones((len(crops), DIM))),
        template=ARCFACE_112,
        size=112,
        dim=DIM,
        min_score=0.5,
        same_person=0.3,
        strangers_near_zero=True,
        files=(ModelFile("recognizer", file, "none"),),
        recognizer_onnx=file if differentiable else None,
        mean=127.5,
        std=127.5,
    )


def finder() -> FaceDetector:
    """Returns a detector that finds a face only in pictures whose left half is lighter than the right half.

    The landmarks of the face are the landmarks of the template, moved by a pixel.
    """

    def detect(image: np.ndarray) -> list[Detection]:
        half = image.shape[1] // 2
        if image[:, :half].mean() < image[:, half:].mean():
            return []
        points = scale_template(FFHQ_512, 512, image.shape[0]).astype(np.float32) + np.array([1.0, -1.0], np.float32)
        box = np.array([0, 0, image.shape[1], image.shape[0]], np.float32)
        return [Detection(box, points, 0.9)]

    return FaceDetector(detect, 0.5)


def face_of(person: int, photo: int, upsample: float = 1.0) -> Face:
    name = f"{person:02d}{photo:02d}".ljust(32, "f")
    return Face(
        face_id=name,
        photo_id=f"photo{person}-{photo}",
        box=(0.0, 0.0, 1.0, 1.0),
        landmarks5=tuple(float(v) for v in (FFHQ_512 / 2 + 20 + photo).ravel()),
        landmarks68=None,
        det_score=0.9,
        inter_ocular_px=60.0,
        yaw=0.0,
        pitch=0.0,
        roll=0.0,
        sharpness=1.0,
        blockiness=0.0,
        exposure=0.5,
        upsample=upsample,
        phash=f"{person:08x}{photo:08x}",
        shard="00000",
        shard_row=person * 100 + photo,
    )


def picture(person: int, photo: int, size: int = 512) -> np.ndarray:
    """Returns a picture of smooth colours, RGB uint8.

    The colours depend mostly on the person, and a little on the photo.
    """
    ours, own = np.random.default_rng(person).uniform(0, 255, (6, 6, 3)), np.random.default_rng([person, photo])
    coarse = np.clip(ours + own.uniform(-40, 40, (6, 6, 3)), 0, 255).astype(np.float32)
    return np.clip(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


@cache  # most tests need these pictures again, and to compute and encode the pictures of a dataset takes half a second
def encode_picture(person: int, photo: int) -> bytes:
    """Returns the picture of `picture` as a PNG file."""
    return cv2.imencode(".png", picture(person, photo)[:, :, ::-1])[1].tobytes()


def dataset(folder: Path, recognizer: Path, people: int = 5, photos: int = 4, upsample: float = 1.0) -> Path:
    """Makes a curated dataset. The last person is in val, and all others are in train. All photos are targets."""
    faces, splits, pairs, photo_rows = [], [], [], []
    embeddings = np.zeros((people * 100, DIM), np.float32)
    for person in range(people):
        split = "val" if person == people - 1 else "train"
        mine = [face_of(person, photo, upsample) for photo in range(photos)]
        for photo, face in enumerate(mine):
            crop = crop_path(folder, face.face_id)
            crop.parent.mkdir(parents=True, exist_ok=True)
            crop.write_bytes(encode_picture(person, photo))
            embeddings[person * 100 + photo] = np.random.default_rng([person, photo]).normal(size=DIM)
            others = tuple(other.face_id for other in mine if other is not face)
            pairs.append(Pair(face.face_id, others, (0.5,) * len(others), "nearest", split))
            splits.append(Split(face.face_id, f"person{person}", split, "identity"))
            photo_rows.append(Photo(face.photo_id, 512, 512, "0"))
        faces += mine
    (folder / "embeddings").mkdir(parents=True, exist_ok=True)
    np.save(folder / "embeddings" / "00000.npy", normalise_rows(embeddings))
    model = Model("recognizer", recognizer.name, "double", sha256_file(recognizer), "none", DIM)
    with Ledger.open(folder, write=True) as ledger:
        ledger.record("double", "all", {}, [*faces, *photo_rows, *splits, *pairs, model])
    return folder


def snapshot(folder: Path, differentiable: bool = True, size: int = SMALL.size, upsample: float = 1.0) -> Snapshot:
    """Returns a snapshot, in FOLDER/snapshot, of the dataset that `dataset` makes."""
    recognizer = recognizer_onnx(folder / "recognizer.onnx")
    made = dataset(folder / "dataset", recognizer, upsample=upsample)
    return take_snapshot(made, folder / "snapshot", size, models_of(recognizer, differentiable))


def real_snapshot(folder: Path, shared: Path, people: int, photos: int, size: int) -> Snapshot:
    """Returns the snapshot of a few people of the shared photos. All people are in train.

    The pack of the shared folder finds the faces.
    """
    models = load_faces(f"insightface:{shared / 'weights' / 'insightface_small'}")
    made, records, crops = folder / "dataset", [], []
    for person, album in enumerate(sorted((shared / "people_crops").iterdir())[:people]):
        mine = []
        for photo in sorted(album.iterdir()):
            image = decode(photo)
            if len(mine) < photos and (found := models.detect(image)):
                face = face_of(person, len(mine))
                mine.append(replace(face, landmarks5=tuple(float(v) for v in found[0].landmarks5.ravel())))
                crops.append(align_face(image, found[0].landmarks5, FFHQ_512, 512))
                path = crop_path(made, face.face_id)
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), crops[-1][:, :, ::-1])
        for face in mine:
            others = tuple(other.face_id for other in mine if other is not face)
            records.append(Pair(face.face_id, others, (0.5,) * len(others), "nearest", "train"))
            records.append(Split(face.face_id, f"person{person}", "train", "identity"))
            records.append(Photo(face.photo_id, 224, 224, "0"))
        records += mine
    embeddings = np.zeros((people * 100, models.dim), np.float32)
    rows = [person * 100 + photo for person in range(people) for photo in range(photos)]
    embeddings[rows] = models.embed(
        np.stack([crop_for_recognizer(crop, models.template, models.size) for crop in crops])
    )
    (made / "embeddings").mkdir(parents=True)
    np.save(made / "embeddings" / "00000.npy", embeddings)
    model = Model("recognizer", "arcface", models.spec, models.recognizer_sha256(), "none", models.dim)
    with Ledger.open(made, write=True) as ledger:
        ledger.record("double", "all", {}, [*records, model])
    return take_snapshot(made, folder / "snapshot", size, models)


def train_adversarial(where: str, run: str, images: str) -> None:
    import torch

    from train.fit.distributed import get_rank, leave_processes
    from train.fit.loop import train
    from train.fit.settings import Settings

    torch.set_num_threads(1)
    Path(f"{run}.{get_rank()}").write_text(str(os.getpid()))
    exact = Settings(precision="fp32")
    train(Path(run), Path(where), ADVERSARIAL, int(images), settings=exact, checkpoint_every=40)
    leave_processes()


def main() -> None:
    where, run, images, *processes = sys.argv[1:]
    if not processes:
        return train_adversarial(where, run, images)
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # torchrun starts its trainers in the same way, but starts new processes, which would import torch again.
    config = LaunchConfig(
        1, 1, int(*processes), rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0, start_method="fork"
    )
    elastic_launch(config, train_adversarial)(where, run, images)


if __name__ == "__main__":
    main()
