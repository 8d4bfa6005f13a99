"""Several processes that train one model as one, where `accelerate launch` started several; else nothing at all."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import ParamSpec, TypeVar

import numpy as np
import torch

from manifests.errors import LikenessError

Answer = TypeVar("Answer")
Told = ParamSpec("Told")

LAG = 4  # steps between a vote and its reading (ours)
PATIENCE = timedelta(hours=3)  # how long processes wait for the first, which may be taking a snapshot (ours)


def get_rank() -> int:
    """The number of this process, 0 for the first."""
    return int(os.environ.get("RANK", 0))


def get_world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def join_processes() -> None:
    """Meet the other processes. Whatever comes before it may differ between them."""
    if get_world_size() > 1:
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


def run_on_first(work: Callable[Told, Answer], *told: Told.args, **named: Told.kwargs) -> Answer:
    """What `work` answers in the first process; the others wait for it and do not work.

    Where it fails the first process raises, and the others leave without a word, with the same exit code.
    """
    if get_world_size() == 1:
        return work(*told, **named)
    from accelerate.utils import broadcast_object_list

    join_processes()
    answer: list[object] = [None, None]
    failed: LikenessError | None = None
    if get_rank() == 0:
        try:
            answer[0] = work(*told, **named)
        except LikenessError as error:
            failed, answer[1] = error, error.exit_code
    broadcast_object_list(answer)
    if failed is not None:
        raise failed
    if answer[1] is not None:
        raise SystemExit(answer[1])
    return answer[0]  # type: ignore[return-value]


def gather_lists(values: list[str]) -> list[str]:
    """Returns the values of all processes, in the order of the processes."""
    if get_world_size() == 1:
        return values
    from accelerate.utils import gather_object

    return list(gather_object(values))


class StopVote:
    """Stops all processes after the same step when one of them wants to stop, without waiting for the device.

    In each step every process hands in a number, which is combined on the CPU while training goes on. A process reads
    the result of LAG steps before, so that it hardly ever waits. One process alone needs no vote and stops at once.
    """

    def __init__(self) -> None:
        self._group = torch.distributed.new_group(backend="gloo") if get_world_size() > 1 else None
        self._pending: deque[tuple[torch.distributed.Work, np.ndarray]] = deque()

    def vote(self, number: int) -> int:
        """Hands in 0 (go on) or a positive number (stop). Returns the largest number that is known to everyone."""
        if self._group is None:
            return number
        result = np.array([number])
        work = torch.distributed.all_reduce(
            torch.from_numpy(result), torch.distributed.ReduceOp.MAX, self._group, async_op=True
        )
        self._pending.append((work, result))
        if len(self._pending) <= LAG:
            return 0
        work, result = self._pending.popleft()
        work.wait()
        return int(result[0])

    def finish(self) -> None:
        """Waits for the votes that nobody has read, before the processes part."""
        while self._pending:
            self._pending.popleft()[0].wait()


def leave_processes() -> None:
    """Part from the other processes, at the end."""
    if get_world_size() > 1 and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
