"""The one progress bar: what is being done, how far, how fast, how long still. On standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[str, int, int], None]  # what is being done, units done, units in all


@contextmanager
def progress(unit: str, quiet: bool = False) -> Iterator[Report]:
    """Answers a function to call with (stage, done, total); each stage gets a bar of its own."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:>8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as bar:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total, rate="")
            speed = bar.tasks[list(tasks).index(stage)].speed
            bar.update(tasks[stage], completed=done, total=total, rate=f"{speed:.1f} {unit}/s" if speed else "")

        yield report
