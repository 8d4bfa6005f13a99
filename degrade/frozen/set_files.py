"""What lies beside the images of a frozen set: theta.jsonl, card.json, and README.md for people.

theta.jsonl has a line an image: `file` and `source` (percent-encoded, `source` below the folder or dataset it was made
from), `source_sha256`, `size` (the longer side that the source was brought to first, or null), `engine`, `theta`, and
`sha256` of the result. That is enough to build the set again from its sources. None of the three holds a clock: the
same command gives the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

import cv2
import numpy as np

from degrade.frozen.jobs import ENGINES
from degrade.sampling import Order, Preset, SecondOrder, sample_theta
from degrade.theta import VERSION, check_theta
from manifests.errors import BadInput
from manifests.runtime.files import sha256_bytes, write_atomically
from manifests.runtime.versions import code_version

CARD, THETAS, README = "card.json", "theta.jsonl", "README.md"
SET_FILES = {CARD, THETAS, README}

Row = dict[str, Any]


def encode_name(path: Path) -> str:
    """A path of any bytes, percent-encoded."""
    return quote_from_bytes(os.fsencode(path), safe="/")


def decode_name(name: str) -> Path:
    """The path of `encode_name`."""
    return Path(os.fsdecode(unquote_to_bytes(name)))


def make_card(preset: Preset | None, seed: int | None, size: int | None, source: str, engine: str) -> dict[str, Any]:
    """What is known of a set before its first image. `source` is percent-encoded and may be relative to the set."""
    return {
        "preset": dataclasses.asdict(preset) if preset else None,
        "seed": seed,
        "size": size,
        "engine": engine,
        "source": source,
        "theta_version": VERSION,
        "likeness": code_version(),
        "tools": {"numpy": np.__version__, "opencv": cv2.__version__},
    }


def encode_card(card: dict[str, Any], complete: bool) -> bytes:
    """card.json; sorted, so that equal cards are equal bytes."""
    return (json.dumps({**card, "complete": complete}, indent=2, sort_keys=True) + "\n").encode()


def encode_rows(rows: list[Row]) -> bytes:
    """theta.jsonl."""
    return "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows).encode()


def finish_set(out: Path, card: dict[str, Any], thetas: bytes, images: int, skipped: list[tuple[str, str]]) -> None:
    """Write theta.jsonl, README.md and, last, the complete card."""
    write_atomically(out / THETAS, thetas)
    card = {**card, "images": images, "skipped": skipped, "theta_sha256": sha256_bytes(thetas)}
    write_atomically(out / README, _readme(card).encode())
    write_atomically(out / CARD, encode_card(card, complete=True))


def _readme(card: dict[str, Any]) -> str:
    preset = card["preset"]["name"] if card["preset"] else "θ of its own"
    size = f"brought to {card['size']} px (longer side) first" if card["size"] else "at the sizes of their sources"
    tools = ", ".join(f"{name} {number}" for name, number in {"likeness": card["likeness"], **card["tools"]}.items())
    skipped = "".join(f"- {name}: {reason}\n" for name, reason in card["skipped"])
    return (
        "# A frozen set of low-quality images\n\n"
        "| | |\n|---|---|\n"
        f"| preset | {preset} |\n| seed | {card['seed'] if card['seed'] is not None else '-'} |\n"
        f"| images | {card['images']}, {size} |\n| engine | {card['engine']} |\n| made with | {tools} |\n"
        f"| SHA-256 of theta.jsonl | `{card['theta_sha256']}` |\n\n"
        "`theta.jsonl` holds, a line an image, its source, every parameter, and the SHA-256 of source and result; "
        "`card.json` every number of the preset.\n\n"
        "```sh\n"
        "likeness verify .                                              # compare every file with its record\n"
        "likeness degrade SOURCES --replay theta.jsonl --out ANOTHER    # the same bytes again, from the sources\n"
        "```\n"
    ) + (f"\nSkipped:\n\n{skipped}" if skipped else "")


def read_card(out: Path) -> dict[str, Any]:
    """card.json of a set. Raises BadInput where there is none or it is no card."""
    try:
        card = json.loads((out / CARD).read_bytes())
    except (OSError, ValueError, RecursionError):
        raise BadInput(
            f"{out} holds no readable {CARD}: name a set made by `likeness degrade`, or a dataset."
        ) from None
    if not isinstance(card, dict) or not {"preset", "seed", "source"} <= card.keys():
        raise BadInput(f"{out / CARD} is not the card of a degraded set.")
    card = {"engine": "exact", "size": None, "tools": {}, "skipped": [], **card}
    for key, right in (
        ("source", isinstance(card["source"], str)),
        ("preset", card["preset"] is None or isinstance(card["preset"], dict)),
        ("preset", not card["preset"] or "name" in card["preset"]),
        ("tools", isinstance(card["tools"], dict)),
        ("skipped", isinstance(card["skipped"], list) and all(map(_is_pair, card["skipped"]))),
    ):
        if not right:
            raise BadInput(f"{out / CARD} was edited: its {key} is none that `likeness degrade` writes; put it back.")
    return card


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(each, str) for each in value)


def read_set_rows(out: Path) -> list[Row]:
    """The rows of a set's theta.jsonl. Raises BadInput where there is none, and for a broken line."""
    if not (out / THETAS).is_file():
        raise BadInput(f"{out} holds no {THETAS}: finish it with the same `likeness degrade` command.")
    return read_theta_file(out / THETAS)


def read_theta_file(path: Path) -> list[Row]:
    """The rows of a theta.jsonl, each with file, source, source_sha256, size, engine, theta, sha256.

    Sets of Likeness 0.1 kept `size` in the card alone; it is taken from there. Raises BadInput for a file that cannot
    be read, a broken line, two lines for one file, and a name that leads out of the set or of its sources.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}): name the {THETAS} of a frozen set.") from None
    rows: list[Row] = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows.append({key: row[key] for key in ("file", "source", "source_sha256", "theta", "sha256")})
            rows[-1] |= {"engine": row.get("engine", "exact")}
            rows[-1] |= {"size": row["size"] if "size" in row else _size_of_card(path.parent)}
            _check_row(rows[-1])
            check_theta(row["theta"])
        except BadInput as error:
            raise BadInput(f"Line {number} of {path}: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise BadInput(f"Line {number} of {path} is broken: restore the file or make the set anew.") from None
    files = {decode_name(row["file"]) for row in rows}
    if len(files) < len(rows):
        raise BadInput(f"{path} names a file twice: restore the file or make the set anew.")
    if folders := sorted(files & {folder for file in files for folder in file.parents}):
        raise BadInput(f"{path} names {folders[0]} as a file and as a folder: restore the file or make the set anew.")
    return rows


def _check_row(row: Row) -> None:
    for key in ("source_sha256", "sha256"):
        if len(row[key]) != 64 or not set(row[key]) <= set("0123456789abcdef"):
            raise ValueError(key)
    size = row["size"]
    if not (size is None or (type(size) is int and size > 0)):
        raise ValueError("size")
    if row["engine"] not in ENGINES:
        raise BadInput(f"there is no engine {row['engine']}; the engines are {', '.join(ENGINES)}.")
    for key in ("file", "source"):
        path = decode_name(row[key])
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in str(path):
            raise BadInput(f"its {key} {row[key]} is no name below a folder, and nothing outside is read or written.")
    if decode_name(row["file"]).suffix != ".png" or decode_name(row["file"]).name.startswith("."):
        raise BadInput(f"its file {row['file']} is no name of a PNG.")


def _size_of_card(folder: Path) -> int | None:
    try:
        size: int | None = json.loads((folder / CARD).read_bytes())["size"]
        return size
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(f"it has no size, and no {CARD} beside it says one: put the card of the set there.") from None


def card_draws_rows(card: dict[str, Any], rows: list[Row]) -> bool:
    """Whether preset and seed of a card draw the θ of its rows, as `degrade` drew them: nobody edited the card.

    True where the card names no preset, as that of a replay without one, or θ are of another version.
    """
    if card["preset"] is None or card["seed"] is None or card.get("theta_version") != VERSION:
        return True
    try:
        preset, seed = _preset_of(card["preset"]), card["seed"]
        # keyed by the path below a folder, or by the face of a dataset, which its file is named after
        return all(
            row["theta"]
            in (sample_theta(preset, seed, row["source"]), sample_theta(preset, seed, Path(row["file"]).stem))
            for row in rows
        )
    except (TypeError, ValueError, KeyError, AttributeError):
        return False  # what was edited is no preset or no seed any more


def _preset_of(fields: dict[str, Any]) -> Preset:
    """The inverse of dataclasses.asdict after a journey through JSON, which turns tuples into lists."""
    found = {name: _tuples(value) for name, value in fields.items()}
    if orders := found.get("orders"):
        rounds = {name: Order(**orders[name]) for name in ("first", "second")}
        found["orders"] = SecondOrder(**{**orders, **rounds})
    return Preset(**found)


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _tuples(inside) for name, inside in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def compare_versions(card: dict[str, Any]) -> tuple[str, ...]:
    """The versions that made a set and are not those of this machine, in words."""
    here = {"numpy": np.__version__, "opencv": cv2.__version__}
    made = {name: there for name, there in card.get("tools", {}).items() if name in here}
    return tuple(f"{name} {made[name]} there, {here[name]} here" for name in sorted(made) if made[name] != here[name])
