"""The progress of a command on standard error: a bar for each stage, or lines of the log for machines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from manifests.runtime.json_log import is_logging, log

Progress = Callable[[str, int, int], None]  # called with the name of the stage, units done, and units in total

LOG_EVERY = 10.0  # seconds between two lines of the log for one stage (ours)


@contextmanager
def show_progress(unit: str, quiet: bool = False) -> Iterator[Progress]:
    """Yields a function to call with (stage, done, total). It shows one bar for each stage.

    With `--log-json` the function writes lines of the log instead: the first and the last of a stage, and one every
    LOG_EVERY seconds. `unit` is the name of the units that are counted, such as photos.
    """
    if is_logging():
        yield _make_logger(unit)
        return
    import rich.progress
    from rich.console import Console

    columns = (
        rich.progress.TextColumn("{task.description:>8}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("{task.fields[rate]}"),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=Console(stderr=True), disable=quiet) as bar:
        tasks: dict[str, rich.progress.TaskID] = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total, rate="")
            speed = bar.tasks[list(tasks).index(stage)].speed
            bar.update(tasks[stage], completed=done, total=total, rate=f"{speed:.1f} {unit}/s" if speed else "")

        yield progress


def _make_logger(unit: str) -> Progress:
    first_calls: dict[str, tuple[float, int]] = {}  # stage -> time of its first call, and the units done by then
    last_lines: dict[str, float] = {}  # stage -> time of its last line

    def progress(stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        start, done_before = first_calls.setdefault(stage, (now, done))
        if stage in last_lines and done < total and now - last_lines[stage] < LOG_EVERY:
            return
        last_lines[stage] = now
        rate = round((done - done_before) / (now - start), 2) if now > start else None
        log("progress", stage=stage, done=done, total=total, unit=unit, units_per_second=rate)

    return progress
