"""Is this machine fit for the work? One finding a line, and what to do where something is wrong."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import TYPE_CHECKING

from curate.faces.errors import FaceModelError
from manifests.runtime.versions import find_version

if TYPE_CHECKING:
    from packaging.requirements import Requirement

OK, NOTE, WRONG = "ok", "note", "wrong"  # a note costs a feature or speed, what is wrong stops a command

# ours: training tiny takes 3.5 GiB with its worker, curation 2 a worker at most (docs/train.md, docs/curate.md)
MEMORY_GIB = 6
DISK_GIB = 10  # ours: a run keeps three checkpoints, and 100,000 crops of 512 px take 40 GB
OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
EXTRAS = {  # extra -> what it is for
    "offline": "dlib: face models without a download, 68 landmarks, a judge in no loss",
    "albumentations": "recipes that augment references, and the transform for albumentations",
    "iqa": "NIQE, MUSIQ, MANIQA, CLIP-IQA",
    "reference": "--engine basicsr",
}


@dataclass(frozen=True)
class Finding:
    """What one look at the machine found."""

    name: str
    state: str  # OK, NOTE or WRONG
    found: str
    advice: str = ""  # what to do; empty where there is nothing


def examine(faces: str, folder: Path) -> Iterator[Finding]:
    """Every finding, in the order of `CHECKS` and then `faces` and `folder`: one look failing stops no other."""
    looks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        *CHECKS.items(),
        ("face models", lambda: face_models(faces)),
        ("disk", lambda: disk(folder)),
    ]
    for name, look in looks:
        try:
            yield from look()
        except Exception as error:  # whatever a broken installation raises is itself the finding
            yield Finding(
                name, WRONG, f"{type(error).__name__}: {_first_line(str(error))}", "make the environment anew."
            )


def python() -> Iterator[Finding]:
    found = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Finding("python", OK if fits else WRONG, found, "" if fits else "use Python 3.11, 3.12 or 3.13.")


def packages() -> Iterator[Finding]:
    """Every declared dependency, at a version that was declared; and each extra."""
    from packaging.requirements import Requirement

    try:
        declared = [Requirement(line) for line in requires("likeness") or ()]
    except PackageNotFoundError:
        advice = "pip install it (or `make install`), so that its dependencies are known."
        yield Finding("packages", WRONG, "likeness itself is not installed", advice)
        return
    wrong = _unmet([need for need in declared if need.marker is None or need.marker.evaluate({"extra": ""})])
    said = "; ".join(wrong) if wrong else "every dependency is there at a version that was asked for"
    yield Finding("packages", WRONG if wrong else OK, said, "pip install likeness again." if wrong else "")
    plain = {"extra": ""}
    for extra, purpose in EXTRAS.items():
        own = [
            need
            for need in declared
            if need.marker and need.marker.evaluate({"extra": extra}) and not need.marker.evaluate(plain)
        ]
        if not own:  # basicsr is for Python below 3.13
            yield Finding(f"extra {extra}", NOTE, f"not for this Python ({purpose})")
            continue
        missing = _unmet(own)
        found = f"{'; '.join(missing)} ({purpose})" if missing else purpose
        yield Finding(
            f"extra {extra}", NOTE if missing else OK, found, f"pip install 'likeness[{extra}]'." if missing else ""
        )


def _unmet(needs: list[Requirement]) -> list[str]:
    unmet = []
    for need in needs:
        version = find_version(need.name)
        if version is None:
            unmet.append(f"{need.name} is missing")
        elif not need.specifier.contains(version, prereleases=True):
            unmet.append(f"{need.name} is {version} and should be {need.specifier}")
    return unmet


def memory() -> Iterator[Finding]:
    total = _memory_gib()
    if total is None:
        yield Finding("memory", NOTE, "cannot be told on this system")
        return
    enough = total >= MEMORY_GIB
    advice = f"{MEMORY_GIB} GiB are little for training: use fewer --workers and --accumulate."
    yield Finding("memory", OK if enough else NOTE, f"{total:.1f} GiB", "" if enough else advice)


def cores() -> Iterator[Finding]:
    from manifests.runtime.workers import count_cores

    yield Finding("cores", OK, f"{count_cores()} of {os.cpu_count()} may be used")


def torch_pair() -> Iterator[Finding]:
    """torch and torchvision of one release: a pair that does not match fails at import, as an unknown operator."""
    from packaging.requirements import Requirement

    torch, vision = find_version("torch"), find_version("torchvision")
    if torch is None or vision is None:
        missing = " and ".join(name for name in ("torch", "torchvision") if find_version(name) is None)
        yield Finding("torch", WRONG, f"{missing} is missing", "pip install likeness again.")
        return
    found = f"torch {torch}, torchvision {vision}"
    wants = next((r for r in map(Requirement, requires("torchvision") or ()) if r.name == "torch"), None)
    base = torch.split("+")[0]
    if wants is not None and not wants.specifier.contains(base, prereleases=True):
        yield Finding(
            "torch", WRONG, found, f"this torchvision is for torch{wants.specifier}: install the two together."
        )
        return
    # in a process of its own: a mismatched pair may abort, and a GPU's driver may hang
    code = (
        "import torch, torchvision\n"
        "torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), .5)\n"
        "names = [torch.cuda.get_device_name(i) + f' {torch.cuda.mem_get_info(i)[1] / 2**30:.0f} GiB'"
        " for i in range(torch.cuda.device_count())]\n"
        "print(', '.join(names))"
    )
    tried = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    if tried.returncode:
        last = _first_line("\n".join(reversed(tried.stderr.strip().splitlines())))
        yield Finding("torch", WRONG, f"{found}: {last}", "install torch and torchvision of one release together.")
        return
    yield Finding("torch", OK, found)
    gpus = tried.stdout.strip()
    yield Finding(
        "gpu", OK if gpus else NOTE, gpus or "none: everything runs on the CPU, and recipe tiny is made for it"
    )


def opencv() -> Iterator[Finding]:
    """The wheels of OpenCV overwrite one another's files: all that are installed must be of one version."""
    there = {name: version for name in OPENCV if (version := find_version(name))}
    found = ", ".join(f"{name} {version}" for name, version in there.items()) or "not installed"
    fits = len(set(there.values())) == 1
    advice = f"bring them to one version: pip install --force-reinstall {' '.join(f'{n}==VERSION' for n in there)}."
    yield Finding("opencv", OK if fits else WRONG, found, "" if fits else advice)


def tables() -> Iterator[Finding]:
    """duckdb hands its answers to polars through pyarrow."""
    import duckdb
    import polars
    import pyarrow

    same = duckdb.connect().sql("SELECT 42 AS answer").pl()["answer"].to_list() == [42]
    found = f"duckdb {duckdb.__version__}, polars {polars.__version__}, pyarrow {pyarrow.__version__}"
    yield Finding(
        "tables", OK if same else WRONG, found, "" if same else "pip install duckdb, polars and pyarrow again."
    )


def weights() -> Iterator[Finding]:
    """The backbones of perceptual losses and metrics, in torch's cache."""
    from train.backbones import BACKBONES, find_local_file, get_file_name

    for backbone in BACKBONES:
        name = get_file_name(backbone)
        file = find_local_file(name, None)
        advice = f"it is downloaded when first needed; without a network put {name} into --weights FOLDER."
        yield Finding(f"weights {backbone}", OK if file else NOTE, str(file or "not here"), "" if file else advice)


def face_models(spec: str) -> Iterator[Finding]:
    """The models behind `--faces`, each file with its hash and licence. Nothing is downloaded."""
    from curate.faces.insightface_models import PACK_ROOT, list_packs
    from curate.faces.load import load_faces

    packs = list_packs()
    if spec == "auto":
        spec = f"insightface:{packs[0]}" if packs else "dlib"
        found = (
            ", ".join(packs)
            or f"none in {PACK_ROOT}; insightface downloads buffalo_l when first needed, else dlib is used"
        )
        yield Finding("packs", OK if packs else NOTE, found)
    named = spec.removeprefix("insightface:")
    if named != spec and named not in packs and not Path(named).expanduser().is_dir():
        yield Finding("face models", WRONG, f"{spec} is not on this machine", "name a folder of .onnx files, or dlib.")
        return
    try:
        models = load_faces(spec)
    except FaceModelError as error:
        yield Finding("face models", WRONG, spec, str(error))
        return
    for file in models.files:
        found = f"{file.path.name} sha256 {file.sha256[:16]}, {file.licence}"
        yield Finding(file.role, OK, f"{models.spec}: {found}")


def disk(folder: Path) -> Iterator[Finding]:
    """Room, and whether a file can be written, flushed and renamed there."""
    folder = folder.expanduser().absolute()
    nearest = next(place for place in (folder, *folder.parents) if place.is_dir())
    free = shutil.disk_usage(nearest).free / 2**30
    try:
        with tempfile.TemporaryDirectory(dir=nearest, prefix=".likeness-doctor-") as own:
            first = Path(own) / "a"
            with first.open("wb") as file:
                file.write(b"a")
                os.fsync(file.fileno())
            first.replace(Path(own) / "b")
    except OSError as error:
        yield Finding("disk", WRONG, f"{nearest}: {error.strerror}", "name another folder with --at.")
        return
    enough = free >= DISK_GIB
    advice = f"datasets and runs want {DISK_GIB} GiB or more: make room, or keep them elsewhere."
    yield Finding("disk", OK if enough else NOTE, f"{free:.0f} GiB free at {nearest}", "" if enough else advice)


CHECKS: dict[str, Callable[[], Iterator[Finding]]] = {
    "python": python,
    "packages": packages,
    "memory": memory,
    "cores": cores,
    "torch": torch_pair,
    "opencv": opencv,
    "tables": tables,
    "weights": weights,
}


def _memory_gib() -> float | None:
    """What this process may use: of the machine, or less where a container's limit says so."""
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    limits = [machine]
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(limit).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return min(limits) / 2**30


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else ""
