"""The table of export formats: what each takes, needs and leaves out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from manifests.errors import BadInput
from manifests.export import dmdnet, faceme, imagefolder, instantrestore, refldm, webdataset
from manifests.export.output_folder import OutputFolder
from manifests.export.selection import ExportOptions, Selection


@dataclass(frozen=True)
class Format:
    """What a format takes and needs."""

    keep: Callable[[Selection], Selection]  # leaves out, with reasons, what has no place in it
    write: Callable[[Selection, OutputFolder], None]
    lq: str  # needed, taken, or none: it makes its own
    names: bool
    embeddings: bool
    cleaned: bool = False  # has a place to say of a picture that it is a cleaned version
    notice: str | None = None


# fmt: off
#                            what it keeps         how it is written      lq set    names  embed. cleaned
FORMATS: dict[str, Format] = {
    "refldm":         Format(refldm.keep,          refldm.write,          "taken",  False, False, False),
    "dmdnet":         Format(dmdnet.keep,          dmdnet.write,          "needed", False, False, False),
    "faceme":         Format(faceme.keep,          faceme.write,          "none",   False, True,  False, faceme.NOTICE),
    "instantrestore": Format(instantrestore.keep,  instantrestore.write,  "taken",  False, False, False),
    "imagefolder":    Format(imagefolder.keep,     imagefolder.write,     "taken",  True,  True,  True),
    "webdataset":     Format(webdataset.keep,      webdataset.write,      "taken",  True,  True,  True),
}
# fmt: on


def select_format(name: str, options: ExportOptions) -> Format:
    if name not in FORMATS:
        raise BadInput(f"--format {name}: say {', '.join(FORMATS)}.")
    kind = FORMATS[name]
    if options.lq_set is None and kind.lq == "needed":
        raise BadInput(f"{name} is a list of low-quality pictures: name a frozen set with --set.")
    if options.lq_set is not None and kind.lq == "none":
        raise BadInput(f"{name} degrades its pictures itself: leave --set out.")
    if options.names and not kind.names:
        raise BadInput(f"{name} has no place for names: leave --with-names out.")
    if options.version != "original" and not kind.cleaned:
        raise BadInput(f"{name} has no place to mark cleaned pictures: leave --crops out, or say imagefolder.")
    if options.embeddings and not kind.embeddings:
        raise BadInput(f"{name} has no place for embeddings: leave --with-embeddings out.")
    return kind
