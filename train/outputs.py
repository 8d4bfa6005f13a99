"""Which file a restored photo becomes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from manifests.errors import BadInput


def outputs_of(inputs: Sequence[Path], out: Path) -> list[tuple[Path, Path]]:
    """Every input photo with the PNG it becomes. Folders keep their structure; equal names get their suffix appended.

    Raises BadInput where there is nothing to restore or two inputs would still share an output.
    """
    found: list[tuple[Path, Path]] = []
    for item in inputs:
        if item.is_dir():
            inside = sorted(path for path in item.rglob("*") if path.is_file() and not path.name.startswith("."))
            found += [(path, path.relative_to(item)) for path in inside if out not in path.parents]
        elif item.exists():
            found.append((item, Path(item.name)))
        else:
            raise BadInput(f"{item} does not exist: name a photo or a folder of photos.")
    if not found:
        raise BadInput(f"There is no file in {inputs[0]}: name a photo or a folder of photos.")
    stems = [place.with_suffix("") for _, place in found]
    places = [
        place.with_name(place.name + ".png") if stems.count(stem) > 1 else place.with_suffix(".png")
        for (_, place), stem in zip(found, stems, strict=True)
    ]
    if len(set(places)) < len(places):
        twice = next(place for place in places if places.count(place) > 1)
        raise BadInput(f"Two inputs would both become {out / twice}: restore them into different folders.")
    todo = [(path, out / place) for (path, _), place in zip(found, places, strict=True)]
    originals = {path.resolve() for path, _ in todo}
    for path, target in todo:
        if target.resolve() in originals:
            raise BadInput(f"{path} would be overwritten by a restored photo: name another folder with --out.")
    return todo
