"""Splits files and photos into batches, and collects the results of batches for one transaction."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

FILES_A_BATCH = 32
PHOTOS_A_BATCH = 32  # A batch writes one shard of embeddings, so a shard has about 32 faces.
LEAST_A_BATCH = 4  # Least number (ours) of items in a batch; only the last batch may have fewer.
# One transaction records the results of about SECONDS_A_TRANSACTION seconds (ours). A transaction takes about 20 ms,
# even if it has only a few rows. If a run is killed, the work since the last transaction is done again.
SECONDS_A_TRANSACTION = 1.0


def split_into_batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """Returns batches of at most `size` items in their order.

    The last 2 * `size` items are in smaller batches: each batch has half of the remaining items, but at least
    LEAST_A_BATCH. All worker processes therefore finish at nearly the same time.
    """
    batches: list[Sequence[Any]] = []
    start = 0
    while start < len(items):
        end = start + min(size, max(LEAST_A_BATCH, (len(items) - start) // 2))
        batches.append(items[start:end])
        start = end
    return batches


def collect(results: Iterable[Any]) -> Iterator[list[Any]]:
    """Yields `results` in lists, for one transaction each.

    No list is empty. A list ends with the first result that comes SECONDS_A_TRANSACTION or more after the list began.
    If `results` raises an error, the results before the error are yielded, and then the error is raised.
    """
    waiting: list[Any] = []
    error: BaseException | None = None
    begin = time.monotonic()
    try:
        for result in results:
            waiting.append(result)
            if time.monotonic() - begin >= SECONDS_A_TRANSACTION:
                yield waiting
                waiting, begin = [], time.monotonic()
    except (Exception, KeyboardInterrupt) as raised:
        error = raised
    if waiting:
        yield waiting
    if error is not None:
        raise error
