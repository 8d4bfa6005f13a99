"""Lets several processes train one model together, if `accelerate launch` or `torchrun` started them.

A process that trains alone does not communicate.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import ParamSpec, TypeVar

import numpy as np
import torch

from manifests.errors import BadInput, LikenessError

Answer = TypeVar("Answer")
Params = ParamSpec("Params")

LAG = 4  # A process reads the result of a vote this number of steps (ours) after the vote.
PATIENCE = timedelta(hours=3)  # The other processes wait at most this long (ours) for the first process's snapshot.


def get_rank() -> int:
    """Returns the number of this process. The first process has number 0."""
    return int(os.environ.get("RANK", 0))


def get_world_size() -> int:
    """Returns the number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def check_launch() -> None:
    """Raises BadInput if the configuration of accelerate divides the model among the processes."""
    for name, variable in (("FSDP", "ACCELERATE_USE_FSDP"), ("DeepSpeed", "ACCELERATE_USE_DEEPSPEED")):
        if os.environ.get(variable, "false").lower() == "true":
            raise BadInput(
                f"The configuration of accelerate uses {name}, but each process of `likeness train` needs the whole "
                "model: start with `accelerate launch --multi_gpu`, or with torchrun."
            )


def join_processes() -> None:
    """Connects this process to the other processes. Before this call, processes can run different code."""
    if get_world_size() > 1:
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


def run_on_first(work: Callable[Params, Answer], *args: Params.args, **kwargs: Params.kwargs) -> Answer:
    """Calls `work` only in the first process, and returns its result in every process. Meanwhile, other processes wait.

    If `work` raises LikenessError, the first process also raises this error. The other processes then exit with the
    same exit code and print no message.
    """
    if get_world_size() == 1:
        return work(*args, **kwargs)
    from accelerate.utils import broadcast_object_list

    join_processes()
    answer: list[object] = [None, None]
    failed: LikenessError | None = None
    if get_rank() == 0:
        try:
            answer[0] = work(*args, **kwargs)
        except LikenessError as error:
            failed, answer[1] = error, error.exit_code
    broadcast_object_list(answer)
    if failed is not None:
        raise failed
    if answer[1] is not None:
        raise SystemExit(answer[1])
    return answer[0]  # type: ignore[return-value]


def take_own_part(values: torch.Tensor) -> torch.Tensor:
    """Returns the part of `values`, (world * n, ...), that belongs to this process, (n, ...).

    `values` has a row for each image of the batch of all processes. If every process draws the same random numbers for
    all these images, an image gets the same numbers with any number of processes.
    """
    return values.chunk(get_world_size())[get_rank()]


def gather_lists(values: list[str]) -> list[str]:
    """Returns one list with the values of all processes, ordered by process number."""
    if get_world_size() == 1:
        return values
    from accelerate.utils import gather_object

    return list(gather_object(values))


class StopVote:
    """Makes all processes stop after the same step if one process wants to stop. A vote does not wait for the device.

    In each step, every process hands in a number. The numbers are combined on the CPU while training continues. In each
    step, a process reads the result of the vote from LAG steps ago. An old result is usually ready, so the process
    rarely waits. A process that trains alone stops after the current step.
    """

    def __init__(self) -> None:
        self._group = torch.distributed.new_group(backend="gloo") if get_world_size() > 1 else None
        self._pending: deque[tuple[torch.distributed.Work, np.ndarray]] = deque()

    def vote(self, number: int) -> int:
        """Hands in a number for this step: 0 to continue, or a positive number to stop.

        Returns the largest number that the processes handed in LAG steps earlier. The first LAG calls return 0. If only
        one process trains, each call returns its own `number`.
        """
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
        """Waits for the votes whose results were not read. Call this method before the processes disconnect."""
        while self._pending:
            self._pending.popleft()[0].wait()


def leave_processes() -> None:
    """Disconnects this process from the other processes at the end of training."""
    if get_world_size() > 1 and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
