"""Writes the format of FaceMe.

Each target has a line of JSON, which contains the paths of two kinds of embeddings: the embedding of the target, and
the embeddings of its references.

The layout follows FaceMe's dataset.py, utils/create_train_json.py and utils/preprocess.py. FaceMe's preprocess.py makes
the files at these paths from the exported images. If the user asks for embeddings, the embeddings of the dataset are
written as `id_emb`, float32 (1, d). The `clip_emb` files are never written, because Likeness does not have PhotoMaker's
encoder.
"""

from __future__ import annotations

import io
import json

import numpy as np

from manifests.export.output_folder import OutputFolder
from manifests.export.selection import Selection

TRAIN_LIST, TARGETS, REFERENCES = "train.json", "ffhq", "ffhqref/target_pose_0"
TARGET_EMBEDDINGS, REFERENCE_EMBEDDINGS = "ffhq_emb", "ffhqref_emb"
NOTICE = (
    "FaceMe also needs CLIP embeddings of PhotoMaker's encoder, which are not exported. Run FaceMe's "
    "utils/preprocess.py on ffhq and ffhqref (docs/import_export.md). Without the CLIP embeddings, "
    "FaceMe's loader stops at the first missing file."
)


def keep(selection: Selection) -> Selection:
    """Returns the targets and their references.

    A face that is neither a target nor a reference is left out, because FaceMe's lists cannot name it.
    """
    return selection.with_faces(set(), "in_no_pair")


def write(selection: Selection, folder: OutputFolder) -> None:
    for split in selection.options.splits:
        lines = []
        for pair in selection.pairs_of(split):
            numbered = [(f"{number:03d}", ref) for number, ref in enumerate(pair.references)]
            target_embeddings = [f"{TARGET_EMBEDDINGS}/{kind}/{pair.target}.npy" for kind in ("id_emb", "clip_emb")]
            reference_embeddings = [
                [f"{REFERENCE_EMBEDDINGS}/{kind}/{pair.target}/{number}.npy" for number, _ in numbered]
                for kind in ("id_emb", "clip_emb")
            ]
            image = f"{TARGETS}/{pair.target}.png"
            line = {"target": image, "target_emb": target_embeddings, "ref_emb": reference_embeddings}
            lines.append(json.dumps(line) + "\n")
            folder.add_image(image, selection.faces[pair.target].image)
            for number, ref in numbered:
                # FaceMe's preprocess.py names an embedding after the last three characters of its image's folder
                name = f"{REFERENCES}/target_pose_0_{number}/{pair.target}.png"
                folder.add_image(name, selection.faces[ref].image)
            if selection.options.embeddings:
                paths, faces = (target_embeddings[0], *reference_embeddings[0]), (pair.target, *pair.references)
                for path, face in zip(paths, faces, strict=True):
                    folder.add_bytes(path, _encode_npy(selection.embeddings[face]))
        folder.add_bytes(TRAIN_LIST if split == "train" else f"{split}.json", "".join(lines).encode())


def _encode_npy(embedding: np.ndarray) -> bytes:
    """Returns the bytes of an .npy file that contains the embedding as float32 (1, d)."""
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(embedding, np.float32)[None])
    return buffer.getvalue()
