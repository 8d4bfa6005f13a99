"""Lists the layouts of published test sets: which file is an LQ image, and which files belong to it.

A layout has patterns (train/benchmark/imported/patterns.py), or a list that the set itself publishes. Each layout names
the public source in which we saw the names of the folders and files. We copied nothing from these sources, and the
tests make small sets in the same shape. A set whose folders we have not seen is not in the table. For such a set, a
user describes the layout in a TOML file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from manifests.errors import BadInput
from manifests.runtime.text import suggest_name
from train.benchmark.imported.pair_lists import ListedCase, read_dmdnet_list, read_refldm_list
from train.benchmark.imported.patterns import compile_pattern, list_words
from train.benchmark.imported.picture_facts import MIN_SIDE


@dataclass(frozen=True)
class Layout:
    """Describes the files of a published test set.

    A pattern may contain words in braces (patterns.py). `{stem}` and `{person}` get their text from the path of the LQ
    image. If the pattern of the LQ images has no word `{stem}`, `{stem}` is the name of the LQ image without suffix.
    `{person}` names the person. Any other word of the pattern of the LQ images becomes a column of the set.
    """

    lq: tuple[str, ...] = ()  # Patterns of the LQ images. Only the first pattern that matches any file is used.
    target: str = ""  # The pattern of the target of an LQ image, or "" if the set has no targets.
    references: str = ""  # The pattern of the references of an LQ image, or "" if the set has no references.
    name: str = "{stem}"  # The name of an image, which restored images of other methods must have too.
    size: int = 0  # The side in pixels to which all images are resized; 0 for the most frequent side in the set.
    origin: str = ""  # The publication or repository that describes the set.
    licence: str = ""  # What we know of the licence.
    lists: str = ""  # The pattern of the lists that the set publishes, or "" if `lq` finds the LQ images.
    read_list: Callable[[Path, str, list[str], str], list[ListedCase]] | None = None  # Reads one of `lists`.
    lq_folder: str = ""  # An argument of `read_list`: the name of the folder of the LQ images.


_NO_LICENCE = "we saw no licence of the photos"
_DMDNET = "csxmli2016/DMDNet: main_test.py, TestExamples"
_REFLDM = "ChiWeiHsiao/ref-ldm: README.md, ldm/data/ir.py"
_REFLDM_LICENCE = "non-commercial research only; the photos have the licences of FFHQ"
_DAEFR = "LIAGM/DAEFR: README.md, run_test_and_evaluation.sh"
_NTIRE = "zhengchen1999/NTIRE2025_RealWorld_Face_Restoration: README.md, eval.py"

# fmt: off
LAYOUTS: dict[str, Layout] = {
    # --- sets with references ---
    # Each line of the list has an LQ image, a folder of references and a folder of landmarks, separated by tabs.
    "dmdnet": Layout(lists="**/SpecificLists.txt", read_list=read_dmdnet_list, origin=_DMDNET,
                     licence="CC BY-NC-SA 4.0, no redistribution (README of DMDNet, also for CelebRef-HQ)"),
    "asffnet": Layout(lists="**/TestLists.txt", read_list=read_dmdnet_list,
                      origin="csxmli2016/ASFFNet512: main_test.py, TestExamples", licence=_NO_LICENCE),
    # The columns are gt_image, ref_image (a list in Python's syntax) and sometimes lq_image. The clean photos come from
    # FFHQ. ReF-LDM reads every image at 512 px.
    "ffhq-ref-severe": Layout(lists="**/reference_mapping/test_references.csv", read_list=read_refldm_list, size=512,
                              lq_folder="severe_degrad", origin=_REFLDM, licence=_REFLDM_LICENCE),
    "ffhq-ref-moderate": Layout(lists="**/reference_mapping/test_references.csv", read_list=read_refldm_list, size=512,
                                lq_folder="moderate_degrad", origin=_REFLDM, licence=_REFLDM_LICENCE),
    "instantrestore": Layout(("**/{person}/degraded.png",), "**/{person}/gt.png", "**/{person}/conditioning/*.png",
                             name="{person}",
                             origin="snap-research/InstantRestore: face_replace/inference/test.py",
                             licence=_NO_LICENCE),
    # --- sets with targets and without references ---
    "celeba-test-daefr": Layout(("**/self_celeba_512_v2/{stem}.*",), "**/celeba_512_validation/{stem}.*",
                                origin=_DAEFR, licence="non-commercial (CelebA)"),
    "celeba-test": Layout(("**/celeba_512_validation_lq/{stem}.*",), "**/celeba_512_validation/{stem}.*",
                          origin="ohayonguy/PMRF: inference.sh; LIAGM/DAEFR: README.md",
                          licence="non-commercial (CelebA)"),
    # --- sets without targets ---
    "dmdnet-generic": Layout(lists="**/GenericLists.txt", read_list=read_dmdnet_list, origin=_DMDNET,
                             licence="CC BY-NC-SA 4.0, no redistribution (README of DMDNet)"),
    "lfw-test": Layout(("**/lfw_cropped_faces/**/{stem}.*", "**/LFW-Test/**/{stem}.*", "{stem}.*"),
                       origin=f"{_DAEFR}; {_NTIRE}", licence=_NO_LICENCE),
    "wider-test": Layout(("**/Wider-Test/**/{stem}.*", "**/WIDER-Test/**/{stem}.*", "{stem}.*"),
                         origin=f"{_DAEFR}; {_NTIRE}", licence=_NO_LICENCE),
    "webphoto-test": Layout(("**/WebPhoto-Test/**/{stem}.*", "{stem}.*"),
                            origin=f"wzhouxiff/RestoreFormerPlusPlus: scripts/test.sh; {_NTIRE}", licence=_NO_LICENCE),
    "celebchild-test": Layout(("**/CelebChild-Test/**/{stem}.*", "{stem}.*"), origin=_NTIRE, licence=_NO_LICENCE),
    # The five subsets of the challenge, for example test/LFW-Test.
    "ntire": Layout(("**/test/{subset}/{stem}.png", "{subset}/{stem}.png"), origin=_NTIRE, licence=_NO_LICENCE),
    "folder": Layout(("**/{stem}.*",), origin="any folder of LQ images", licence="not known"),
}
# fmt: on

_KEYS = {field.name for field in fields(Layout)} - {"read_list", "lists", "lq_folder"}


def find_layout(name: str) -> tuple[str, Layout]:
    """Returns the name of a set and its layout. `name` is a key of LAYOUTS, or the path of a TOML file.

    Raises BadInput if there is no such layout, or if the TOML file is wrong.
    """
    if name in LAYOUTS:
        return name, LAYOUTS[name]
    if not name.endswith(".toml"):
        raise BadInput(
            f"There is no layout {name}{suggest_name(name, LAYOUTS)}: give one of {', '.join(LAYOUTS)}, or a .toml "
            "file of patterns (docs/benchmarks.md)."
        )
    try:
        table = tomllib.loads(Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{name} cannot be read: {error.strerror}.") from None
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise BadInput(f"{name} is not valid TOML: {error}.") from None
    return Path(name).stem, _make_layout(name, table)


def _make_layout(path: str, table: dict[str, Any]) -> Layout:
    if unknown := sorted(table.keys() - _KEYS):
        raise BadInput(f"{path} has the key {unknown[0]}: a layout has only the keys {', '.join(sorted(_KEYS))}.")
    lq = table.get("lq")
    patterns = [lq] if isinstance(lq, str) else lq
    if not isinstance(patterns, list) or not patterns or not all(isinstance(one, str) and one for one in patterns):
        raise BadInput(f"{path} needs the key lq: the pattern of the LQ images, or a list of patterns.")
    size = table.get("size")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < MIN_SIDE):
        raise BadInput(f"{path}: size must be a number of pixels, {MIN_SIDE} or more, but it is {size!r}.")
    texts = {key: table.get(key, getattr(Layout(), key)) for key in sorted(_KEYS - {"lq", "size"})}
    if wrong := [key for key, text in texts.items() if not isinstance(text, str)]:
        raise BadInput(f"{path}: {wrong[0]} must be a text in quotation marks.")
    if not texts["name"] or "/" in texts["name"] or "\\" in texts["name"]:
        raise BadInput(f"{path}: name must be a file name without folders, because restored images get this name.")
    layout = Layout(tuple(patterns), size=size or 0, **texts)
    for pattern in (*patterns, layout.target, layout.references):
        compile_pattern(pattern)
    for key in ("target", "references", "name"):
        for word in list_words(getattr(layout, key)):
            if word != "stem" and any(word not in list_words(pattern) for pattern in patterns):
                raise BadInput(f"{path}: {key} uses the word {{{word}}}, but a pattern of lq does not have this word.")
    return layout
