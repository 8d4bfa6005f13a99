"""Embeds the references of a training batch with the identity encoder of the recipe."""

from __future__ import annotations

import torch

from train.data.dataset import Batch
from train.models.identity.identity_encoder import IdentityEncoder


@torch.no_grad()
def embed_references(encoder: IdentityEncoder | None, batch: Batch) -> Batch:
    """Returns the batch with `embeddings` (B,K,d) float32 of the pictures `unwarped` (B,K,3,S,S).

    An empty slot has zeros. Without an encoder, the batch has the embeddings of the dataset's recognizer, and is
    returned unchanged.
    """
    if encoder is None:
        return batch
    faces, places = batch["unwarped"], batch["places"].filled
    embeddings = faces.new_zeros(len(faces) * faces.shape[1], encoder.dim)
    if len(places):
        embeddings[places] = encoder(faces.flatten(0, 1)[places])
    return {**batch, "embeddings": embeddings.view(*faces.shape[:2], encoder.dim)}
