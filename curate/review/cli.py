"""The command `review`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manifests.ledger.paths import check_ledger_exists
from manifests.runtime.flags import argument, flag


def review(
    dataset: Annotated[Path, argument("DATASET")],
    port: Annotated[int | None, flag("--port", default="a free port", low=0, high=65535)] = None,
    no_browser: Annotated[bool, flag("--no-browser")] = False,
    host: Annotated[str | None, flag("--host", "; needs --token", default="this machine only")] = None,
    token: Annotated[bool, flag("--token")] = False,
    run: Annotated[list[Path] | None, flag("--run", default="runs inside the dataset", repeat=True)] = None,
) -> None:
    """Look at the people of a dataset in a browser, and correct wrong groups.

    The command starts a server on this machine, and opens the browser. Every act in the browser is recorded at once, as
    the same decision that `likeness decide` records. Ctrl-C ends the command.

    The command prints a link with a token. The link works one time, and only the browser that opened the link can see
    the pages.

    Example: likeness review DATASET
    """
    from importlib.util import find_spec

    from manifests.errors import BadInput, ModelUnavailable

    if host is not None and not token:
        raise BadInput(
            f"With --host {host}, everybody who has the printed link can see the photos. Add --token if you want this, "
            "or leave --host out."
        )
    if token and host is None:
        raise BadInput("The option --token belongs to --host. Leave --token out, or give --host ADDRESS.")
    check_ledger_exists(dataset)
    for folder in run or []:
        if not folder.is_dir():
            raise BadInput(
                f"{folder} is not a folder. Give --run a folder that `likeness evaluate` or `restore` wrote into."
            )
    if not all(map(find_spec, ("openTSNE", "starlette", "uvicorn"))):
        raise ModelUnavailable(
            "The packages of the review are missing. Install these packages with: pip install 'likeness[review]'"
        )
    from curate.review.server import serve

    serve(dataset, host or "127.0.0.1", port or 0, not no_browser, typer.echo, run or [])
