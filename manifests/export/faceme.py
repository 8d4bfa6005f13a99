"""FaceMe: a JSON line a target, with the files that hold its embeddings and those of its references.

As in dataset.py, utils/create_train_json.py and utils/preprocess.py. The lines name the files that preprocess.py makes
of the exported pictures. With embeddings asked for, ours are written in place of its `id_emb`, float32 (1, d); its
`clip_emb` are those of PhotoMaker's encoder, which we do not have.
"""

from __future__ import annotations

import io
import json

import numpy as np

from manifests.export.output_folder import OutputFolder
from manifests.export.selection import Selection

LINES, TARGETS, REFERENCES = "train.json", "ffhq", "ffhqref/target_pose_0"
OF_TARGETS, OF_REFERENCES = "ffhq_emb", "ffhqref_emb"
NOTICE = (
    "FaceMe needs CLIP embeddings of PhotoMaker's encoder, which are not written: run its utils/preprocess.py on ffhq "
    "and ffhqref (docs/formats.md); until then its loader stops at the first missing file."
)


def keep(selection: Selection) -> Selection:
    """Targets and references; a face that is neither has no place in a line."""
    return selection.with_faces(set(), "in_no_pair")


def write(selection: Selection, folder: OutputFolder) -> None:
    for split in selection.options.splits:
        lines = []
        for pair in selection.pairs_of(split):
            numbered = [(f"{place:03d}", ref) for place, ref in enumerate(pair.references)]
            target = [f"{OF_TARGETS}/{kind}/{pair.target}.npy" for kind in ("id_emb", "clip_emb")]
            refs = [
                [f"{OF_REFERENCES}/{kind}/{pair.target}/{place}.npy" for place, _ in numbered]
                for kind in ("id_emb", "clip_emb")
            ]
            picture = f"{TARGETS}/{pair.target}.png"
            lines.append(json.dumps({"target": picture, "target_emb": target, "ref_emb": refs}) + "\n")
            folder.add_image(picture, selection.faces[pair.target].image)
            for place, ref in numbered:
                # preprocess.py takes the last three characters of this folder for the embedding's name
                name = f"{REFERENCES}/target_pose_0_{place}/{pair.target}.png"
                folder.add_image(name, selection.faces[ref].image)
            if selection.options.embeddings:
                for path, face in zip((target[0], *refs[0]), (pair.target, *pair.references), strict=True):
                    folder.add_bytes(path, _npy(selection.embeddings[face]))
        folder.add_bytes(LINES if split == "train" else f"{split}.json", "".join(lines).encode())


def _npy(vector: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.save(sink, np.asarray(vector, np.float32)[None])
    return sink.getvalue()
