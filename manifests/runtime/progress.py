"""The one progress bar: what is being done, how far, how fast, how long still. On standard error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from manifests.runtime.json_log import is_logging, log

Progress = Callable[[str, int, int], None]  # what is being done, units done, units in all

LOG_EVERY = 10.0  # seconds between two log lines of one stage (ours)


@contextmanager
def show_progress(unit: str, quiet: bool = False) -> Iterator[Progress]:
    """Answers a function to call with (stage, done, total); each stage gets a bar of its own.

    With `--log-json` there are log lines instead: a stage's first, its last, and one every LOG_EVERY seconds.
    """
    if is_logging():
        yield _logging(unit)
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


def _logging(unit: str) -> Progress:
    began: dict[str, tuple[float, int]] = {}  # stage -> when it was first heard of, and how far it was then
    said: dict[str, float] = {}

    def progress(stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        since, before = began.setdefault(stage, (now, done))
        if stage in said and done < total and now - said[stage] < LOG_EVERY:
            return
        said[stage] = now
        rate = round((done - before) / (now - since), 2) if now > since else None
        log("progress", stage=stage, done=done, total=total, unit=unit, units_per_second=rate)

    return progress
