"""The table of export formats.

Each format has a function that selects the content, a function that writes the files, and the options that the format
supports.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from manifests.errors import BadInput
from manifests.export.layouts import (
    celebref,
    dmdnet,
    faceme,
    ffhq_zip,
    imagefolder,
    instantrestore,
    lmdb_folders,
    refldm,
    webdataset,
)
from manifests.export.output_folder import OutputFolder
from manifests.export.selection import ExportOptions, Selection


@dataclass(frozen=True)
class Format:
    """The functions of one format, and what the format can contain."""

    # Removes the content that the format cannot contain, and counts the removed items by reason.
    keep: Callable[[Selection], Selection]
    write: Callable[[Selection, OutputFolder], None]
    lq: str  # Whether --set is "needed", "taken" (optional) or not possible ("none").
    names: bool  # Whether the format can contain people's names.
    embeddings: bool  # Whether the format can contain face embeddings.
    cleaned: bool = False  # Whether the format can mark an image as a cleaned version.
    notice: str | None = None  # A text that the user sees after each export.


# The columns after the name are the fields of the class Format, in their order.
FORMATS: dict[str, Format] = {
    "refldm":         Format(refldm.keep,          refldm.write,          "taken",  False, False, False),
    "dmdnet":         Format(dmdnet.keep,          dmdnet.write,          "needed", False, False, False),
    "faceme":         Format(faceme.keep,          faceme.write,          "none",   False, True,  False, faceme.NOTICE),
    "instantrestore": Format(instantrestore.keep,  instantrestore.write,  "taken",  False, False, False),
    "celebref":       Format(celebref.keep,        celebref.write,        "none",   False, False, False),
    "imagefolder":    Format(imagefolder.keep,     imagefolder.write,     "taken",  True,  True,  True),
    "webdataset":     Format(webdataset.keep,      webdataset.write,      "taken",  True,  True,  True),
    "lmdb":           Format(lmdb_folders.keep,    lmdb_folders.write,    "taken",  False, False, False),
    "ffhq-zip":       Format(ffhq_zip.keep,        ffhq_zip.write,        "none",   False, False, False),
}  # fmt: skip


def select_format(name: str, options: ExportOptions) -> Format:
    """Returns the format of this name. Raises BadInput if the format is unknown or does not fit the options."""
    if name not in FORMATS:
        raise BadInput(f"--format {name} is unknown. Write one of {', '.join(FORMATS)}.")
    entry = FORMATS[name]
    if options.lq_set is None and entry.lq == "needed":
        raise BadInput(f"The format {name} needs low-quality images. Name a frozen set with --set.")
    if options.lq_set is not None and entry.lq == "none":
        raise BadInput(f"The format {name} has no place for low-quality images. Leave --set out.")
    if options.names and not entry.names:
        raise BadInput(f"The format {name} has no place for names. Leave --with-names out.")
    if options.version != "original" and not entry.cleaned:
        raise BadInput(f"The format {name} cannot mark cleaned images. Leave --crops out, or use --format imagefolder.")
    if options.embeddings and not entry.embeddings:
        raise BadInput(f"The format {name} has no place for embeddings. Leave --with-embeddings out.")
    return entry
