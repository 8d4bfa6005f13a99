"""Splits files and photos into batches. One worker process reads a batch, and one transaction records its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

FILES_A_BATCH = 32
PHOTOS_A_BATCH = 32  # a batch writes one shard of embeddings, so a shard has about 32 faces


def split_into_batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """Returns batches of `size` items in their order. The last batch may be smaller."""
    return [items[start : start + size] for start in range(0, len(items), size)]
