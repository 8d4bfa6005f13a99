"""Starts the server of the review. The pages of each area are in the files routes.py and *_routes.py."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import webbrowser
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from types import ModuleType

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import curate.review.ask.routes
import curate.review.copies.routes
import curate.review.frozen.routes
import curate.review.leaks.routes
import curate.review.map.routes
import curate.review.people.act_routes
import curate.review.people.face_routes
import curate.review.people.routes
import curate.review.pictures.routes
import curate.review.runs.restored_routes
import curate.review.runs.routes
import curate.review.unused.routes
from curate.review.ask.asker import Asker
from curate.review.map.selections import Selections
from curate.review.session.session import Applying, Session
from curate.review.web.access import Access, is_loopback
from curate.review.web.background import Jobs
from curate.review.web.pages import fail, render_error
from manifests.errors import BadInput, LikenessError

# Each module has the routes of an area of the pages in `ROUTES`. `NAVIGATION` has the links to the area, each as a pair
# of a path and a title. Every page shows the links to all areas, in the order of AREAS.
AREAS: list[ModuleType] = [
    curate.review.people.routes,
    curate.review.people.face_routes,
    curate.review.people.act_routes,
    curate.review.ask.routes,
    curate.review.map.routes,
    curate.review.copies.routes,
    curate.review.unused.routes,
    curate.review.frozen.routes,
    curate.review.runs.routes,
    curate.review.runs.restored_routes,
    curate.review.leaks.routes,
    curate.review.pictures.routes,
]
# The queue of questions is made this many seconds (ours) after the first page, so that pictures load first
_QUESTIONS_AFTER = 1.0
_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}


def serve(
    dataset: Path,
    host: str,
    port: int,
    open_browser: bool,
    say: Callable[[str], None],
    runs: Sequence[Path] = (),
) -> None:
    """Serves the pages of a dataset until Ctrl-C. `say` prints a line for the user. `runs` are folders with
    results of `likeness evaluate`.

    With `port` 0, the server uses any free port. Raises BadInput if the address or the port cannot be used. Raises
    LedgerError if the ledger cannot be read.
    """
    session = Session(dataset)
    listener = _listen(host, port)
    port = listener.getsockname()[1]
    pages = make_app(session, runs)
    app = Access(pages, host, port, lambda link: say(f"To open the pages in another browser: {link}"))
    if session.read_only:
        say(session.read_only)
    if not is_loopback(host):
        say("Note: the pages are sent without encryption. Use --host only in a network that you trust.")
    say(f"Open {app.link}\nEnd the review with Ctrl-C.")
    if open_browser:
        webbrowser.open(app.link)
    threading.Thread(target=_make_questions, args=(pages,), daemon=True).start()
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", server_header=False)
    )
    try:
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises this error after Ctrl-C has ended the server
            server.run(sockets=[listener])
    finally:
        listener.close()
        pages.state.jobs.stop()
        session.close(say)


def _make_questions(pages: Starlette) -> None:
    """Makes the queue of questions after the first page, so that the page of questions opens at once."""
    pages.state.first_page.wait()
    time.sleep(_QUESTIONS_AFTER)
    pages.state.asker.prepare()


def make_app(session: Session, runs: Sequence[Path] = ()) -> Starlette:
    """Returns the application with the pages of all areas, without any check of access."""
    routes = [route for area in AREAS for route in area.ROUTES]
    app = Starlette(
        routes=[*routes, Route("/static/{name}", _send_static)],
        exception_handlers={
            HTTPException: _answer_http_error,
            Applying: _answer_applying,
            LikenessError: _answer_likeness_error,
        },
    )
    app.state.session = session
    app.state.runs = tuple(runs)
    app.state.asker = Asker(session)
    app.state.first_page = threading.Event()  # set when the first page is rendered
    app.state.jobs = Jobs()
    app.state.selections = Selections()
    app.state.face_map = ("", None)  # the key and the map that the page of the map showed last
    app.state.navigation = [entry for area in AREAS for entry in area.NAVIGATION]
    app.state.static = _read_static_files()
    return app


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except PermissionError:
        raise BadInput(f"The system does not allow the port {port}. Give --port a number of 1024 or more.") from None
    except OSError as error:
        if isinstance(error, socket.gaierror):
            raise BadInput(
                f"{host} is not an address of this machine. Give --host an address such as 0.0.0.0."
            ) from None
        raise BadInput(
            f"The port {port} of {host} cannot be used: {error.strerror or error}. Give another --port, or leave "
            "--port out to get a free port."
        ) from None


def _read_static_files() -> dict[str, tuple[bytes, str]]:
    """Returns a dict that maps the name of each file in static/ to its bytes and its media type."""
    return {
        file.name: (file.read_bytes(), _TYPES[file.name.rpartition(".")[2]])
        for folder in (resources.files("curate.review.web") / "static").iterdir()
        for file in folder.iterdir()
        if file.name.rpartition(".")[2] in _TYPES
    }


def _send_static(request: Request) -> Response:
    entry = request.app.state.static.get(request.path_params["name"])
    if entry is None:
        raise HTTPException(404)
    return Response(entry[0], media_type=entry[1])


def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = "There is no such page." if error.status_code == 404 else error.detail
    return render_error(request, sentence, error.status_code)


def _answer_applying(request: Request, error: Exception) -> Response:
    """Tells the script of a page to repeat its act in a moment."""
    return JSONResponse({"error": str(error), "again": True}, 503)


def _answer_likeness_error(request: Request, error: Exception) -> Response:
    """Sends the sentence of an error that a user can correct."""
    return fail(request, str(error))
