"""Reads and writes the files beside the images of a frozen set: theta.jsonl, card.json, and README.md for people.

theta.jsonl has one line for each image, with the keys `file`, `source`, `source_sha256`, `size`, `engine`, `theta` and
`sha256`. `file` and `source` are plain paths. `source` is relative to the folder or dataset of the clean images. The
name of a file can contain bytes that are not UTF-8. In a plain path, U+FFFD takes the place of such a byte. The keys
`file_encoded` and `source_encoded` contain the same paths percent-encoded, which loses no byte. Likeness reads the
encoded paths. Earlier versions of Likeness wrote only the encoded paths, under the keys `file` and `source`. Before the
degradation, the source is reduced to a longer side of `size` pixels; if `size` is null, the source keeps its size.
`source_sha256` is the hash of the file of the source, and `sha256` is the hash of the PNG file. From theta.jsonl and
the sources, the set can be made again. None of the three files contains a time, so the same command gives the same
bytes.
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
from manifests.runtime.files import sha256_bytes, sha256_file, write_atomically
from manifests.runtime.text import make_printable
from manifests.runtime.versions import code_version
from manifests.stores.store_path import StorePath, parse_path

CARD, THETAS, README = "card.json", "theta.jsonl", "README.md"
SET_FILES = {CARD, THETAS, README}
_CARD_KEYS = {"preset", "seed", "size", "engine", "source", "theta_version", "tools"}  # Keys that card.json must have.
Row = dict[str, Any]  # One line of theta.jsonl.
_PATHS = ("file", "source")  # The keys whose values are paths.
_ROW_KEYS = (*_PATHS, *(f"{key}_encoded" for key in _PATHS), "source_sha256", "size", "engine", "theta", "sha256")


def encode_name(path: Path) -> str:
    """Returns a path as percent-encoded text. The path can contain any bytes."""
    return quote_from_bytes(os.fsencode(path), safe="/")


def decode_name(name: str) -> Path:
    """Returns the path that `encode_name` encoded."""
    return parse_path(os.fsdecode(unquote_to_bytes(name)))


def find_source(out: Path, card: dict[str, Any]) -> Path:
    """Returns the folder of the clean images that a card names. A relative path begins at the set `out`."""
    source = decode_name(card["source_encoded"])
    return source if isinstance(source, StorePath) else out / source


def plain_name(path: Path) -> str:
    """Returns a path as text, with U+FFFD in place of each byte that is not UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


def describe_path(key: str, path: Path) -> dict[str, str]:
    """Returns the plain path under `key`, and the percent-encoded path under `key` followed by `_encoded`."""
    return {key: plain_name(path), f"{key}_encoded": encode_name(path)}


def _complete_paths(fields: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """Returns the fields, with both the plain and the encoded paths. Earlier versions of Likeness wrote only encoded
    paths.
    """
    if any(f"{key}_encoded" in fields for key in keys):
        return fields
    return fields | {name: path for key in keys for name, path in describe_path(key, decode_name(fields[key])).items()}


def make_card(preset: Preset | None, seed: int | None, size: int | None, source: Path, engine: str) -> dict[str, Any]:
    """Returns the card of a set that has no image yet. `source` can be relative to the set."""
    return {
        "preset": dataclasses.asdict(preset) if preset else None,
        "seed": seed,
        "size": size,
        "engine": engine,
        **describe_path("source", source),
        "theta_version": VERSION,
        "likeness": code_version(),
        "tools": {"numpy": np.__version__, "opencv": cv2.__version__},
    }


def encode_card(card: dict[str, Any], complete: bool) -> bytes:
    """Returns the bytes of card.json. The keys of card.json are sorted, so equal cards have equal bytes."""
    return (json.dumps({**card, "complete": complete}, indent=2, sort_keys=True) + "\n").encode()


def encode_rows(rows: list[Row]) -> bytes:
    """Returns the bytes of theta.jsonl."""
    return "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows).encode()


def finish_set(out: Path, card: dict[str, Any], thetas: bytes, images: int, skipped: list[tuple[str, str]]) -> None:
    """Writes theta.jsonl, then README.md, and finally the complete card."""
    write_atomically(out / THETAS, thetas)
    card = {**card, "images": images, "skipped": skipped, "theta_sha256": sha256_bytes(thetas)}
    write_atomically(out / README, _format_readme(card).encode())
    write_atomically(out / CARD, encode_card(card, complete=True))


def _format_readme(card: dict[str, Any]) -> str:
    preset = card["preset"]["name"] if card["preset"] else "unknown"
    size = f"first reduced to a longer side of {card['size']} px" if card["size"] else "in the sizes of their sources"
    tools = ", ".join(f"{name} {number}" for name, number in {"likeness": card["likeness"], **card["tools"]}.items())
    skipped = "".join(f"- {make_printable(name)}: {reason}\n" for name, reason in card["skipped"])
    return (
        "# A frozen set of low-quality images\n\n"
        "| | |\n|---|---|\n"
        f"| preset | {preset} |\n| seed | {card['seed'] if card['seed'] is not None else '-'} |\n"
        f"| images | {card['images']}, {size} |\n| engine | {card['engine']} |\n| made with | {tools} |\n"
        f"| SHA-256 of theta.jsonl | `{card['theta_sha256']}` |\n\n"
        "`theta.jsonl` has one line for each image: its source, every parameter, and the SHA-256 of source and result. "
        "`card.json` contains every number of the preset.\n\n"
        "```sh\n"
        "likeness verify .                                              # compare every file with its record\n"
        "likeness degrade SOURCES --replay theta.jsonl --out ANOTHER    # make the same bytes again from the sources\n"
        "```\n"
    ) + (f"\nSkipped:\n\n{skipped}" if skipped else "")


def read_card(out: Path) -> dict[str, Any]:
    """Returns the card of a set. Raises BadInput if there is no card.json or if card.json is not the card of a set."""
    try:
        card = json.loads((out / CARD).read_bytes())
    except (OSError, ValueError, RecursionError):
        raise BadInput(f"{out} has no readable {CARD}: name a set made by `likeness degrade`, or a dataset.") from None
    if not isinstance(card, dict) or not _CARD_KEYS.issubset(card):
        raise BadInput(f"{out / CARD} is not the card of a frozen set: name a set made by `likeness degrade`.")
    card = {"skipped": [], **card}  # the card of an unfinished set has no key `skipped`
    for key, valid in (
        ("source", isinstance(card["source"], str) and isinstance(card.get("source_encoded", ""), str)),
        ("preset", card["preset"] is None or isinstance(card["preset"], dict)),
        ("preset", not card["preset"] or "name" in card["preset"]),
        ("tools", isinstance(card["tools"], dict)),
        ("skipped", isinstance(card["skipped"], list) and all(map(_is_pair, card["skipped"]))),
    ):
        if not valid:
            raise BadInput(f"{out / CARD} was edited: the value of {key} is not valid. Restore the file.")
    if "source_encoded" not in card:  # an earlier version of Likeness wrote this card
        card["skipped"] = [[plain_name(decode_name(name)), reason] for name, reason in card["skipped"]]
    return _complete_paths(card, ("source",))


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(each, str) for each in value)


def read_set_rows(out: Path) -> list[Row]:
    """Returns the rows of the theta.jsonl in a set.

    Raises BadInput if there is no theta.jsonl, or if `read_theta_file` refuses the file.
    """
    if not (out / THETAS).is_file():
        raise BadInput(f"{out} has no {THETAS}: finish the set by repeating its `likeness degrade` command.")
    return read_theta_file(out / THETAS)


def read_theta_file(path: Path) -> list[Row]:
    """Returns the rows of a theta.jsonl, each with all _ROW_KEYS.

    Raises BadInput if the file cannot be read, if a line is broken, or if two lines name the same file. Also raises
    BadInput if a path leads out of the set, or out of the folder of its sources.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}): name the {THETAS} of a frozen set.") from None
    rows: list[Row] = []
    for number, line in enumerate(lines, 1):
        try:
            row = _complete_paths(json.loads(line), _PATHS)
            rows.append({key: row[key] for key in _ROW_KEYS})
            _check_row(rows[-1])
            check_theta(row["theta"])
        except BadInput as error:
            raise BadInput(f"Line {number} of {path}: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise BadInput(f"Line {number} of {path} is broken: restore the file, or make the set again.") from None
    files = {decode_name(row["file_encoded"]) for row in rows}
    if len(files) < len(rows):
        raise BadInput(f"{path} names a file twice: restore the file, or make the set again.")
    if folders := sorted(files & {folder for file in files for folder in file.parents}):
        raise BadInput(f"{path} names {folders[0]} as a file and as a folder: restore the file, or make the set again.")
    return rows


def _check_row(row: Row) -> None:
    for key in ("source_sha256", "sha256"):
        if len(row[key]) != 64 or not set(row[key]) <= set("0123456789abcdef"):
            raise ValueError(key)
    size = row["size"]
    if not (size is None or (type(size) is int and size > 0)):
        raise ValueError("size")
    if row["engine"] not in ENGINES:
        raise BadInput(f"There is no engine {row['engine']}; the engines are {', '.join(ENGINES)}.")
    for key in _PATHS:
        path = decode_name(row[f"{key}_encoded"])
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in str(path):
            raise BadInput(
                f"The {key} {make_printable(path)} is not a path inside the folder of the set or of its sources. "
                "Likeness reads and writes nothing outside of these folders."
            )
        if row[key] != plain_name(path):
            raise BadInput(
                f"The line has the {key} {make_printable(row[key])}, but {key}_encoded is the path "
                f"{make_printable(path)}. Restore the file, or make the set again."
            )
    file = decode_name(row["file_encoded"])
    if file.suffix != ".png" or file.name.startswith("."):
        raise BadInput(
            f"The file {make_printable(file)} must have a name that ends in .png and does not begin with a dot."
        )


def hash_folder(folder: Path) -> dict[str, Path]:
    """Returns a dict that maps each SHA-256 to the first file with this SHA-256 below a folder.

    Symlinks are not followed.
    """
    if isinstance(folder, StorePath):
        return {sha256_file(path): path for path in reversed(folder.list_files())}
    files = [path for path in sorted(folder.rglob("*"), reverse=True) if path.is_file() and not path.is_symlink()]
    return {sha256_file(path): path for path in files}


def card_gives_thetas(card: dict[str, Any], rows: list[Row]) -> bool:
    """Returns whether the preset and the seed of a card give the θ of all rows. If the preset and the seed give another
    θ, the card was edited.

    Also returns True if the card has no preset or no seed, or if its θ version is not VERSION. The card of a replayed
    set has no preset if the original set had no card.
    """
    if card["preset"] is None or card["seed"] is None or card["theta_version"] != VERSION:
        return True
    try:
        preset, seed = _restore_preset(card["preset"]), card["seed"]
        # In a set of a folder, the key of a θ is the encoded path of the source image. In a set of a dataset, the key
        # is the face id, which is also the name of the image file.
        return all(
            row["theta"] in (sample_theta(preset, seed, key) for key in (row["source_encoded"], Path(row["file"]).stem))
            for row in rows
        )
    except (TypeError, ValueError, KeyError, AttributeError):
        return False  # the card was edited, and its preset or its seed is not valid


def _restore_preset(fields: dict[str, Any]) -> Preset:
    """Returns the preset that was written with `dataclasses.asdict(preset)` as JSON. JSON turns tuples into lists."""
    values = {name: _to_tuples(value) for name, value in fields.items()}
    if orders := values.get("orders"):
        rounds = {name: Order(**orders[name]) for name in ("first", "second")}
        values["orders"] = SecondOrder(**{**orders, **rounds})
    return Preset(**values)


def _to_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _to_tuples(content) for name, content in value.items()}
    return tuple(map(_to_tuples, value)) if isinstance(value, list) else value


def compare_versions(card: dict[str, Any]) -> tuple[str, ...]:
    """Returns a text for each library whose version on this machine differs from the version that made the set."""
    installed = {"numpy": np.__version__, "opencv": cv2.__version__}
    recorded = {name: version for name, version in card.get("tools", {}).items() if name in installed}
    return tuple(
        f"{name} was {recorded[name]} for the set and is {installed[name]} here"
        for name in sorted(recorded)
        if recorded[name] != installed[name]
    )
