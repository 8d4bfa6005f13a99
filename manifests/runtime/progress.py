"""Shows the progress of a command on standard error, with a bar for each stage or with lines of the JSON log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from manifests.runtime.json_log import is_logging, log

# a function with the arguments: name of the stage, number of finished units, number of all units
Progress = Callable[[str, int, int], None]

LOG_EVERY = 10.0  # seconds (ours) between two log lines of the same stage


@contextmanager
def show_progress(unit: str, quiet: bool = False) -> Iterator[Progress]:
    """Yields a function of type Progress, which shows a progress bar for each stage.

    With `--log-json`, the function writes lines of the log instead: for the first call of a stage, for the last call,
    and for one call every LOG_EVERY seconds. `unit` is the plural name of the counted things, such as photos.
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
    # maps a stage to the time of its first call, and to the number of units that were already finished then
    first_calls: dict[str, tuple[float, int]] = {}
    last_lines: dict[str, float] = {}  # maps a stage to the time of its last log line

    def progress(stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        start, done_before = first_calls.setdefault(stage, (now, done))
        if stage in last_lines and done < total and now - last_lines[stage] < LOG_EVERY:
            return
        last_lines[stage] = now
        rate = round((done - done_before) / (now - start), 2) if now > start else None
        left = round((total - done) / rate, 1) if rate else None
        log("progress", stage=stage, done=done, total=total, unit=unit, units_per_second=rate, seconds_left=left)

    return progress
