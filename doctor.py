"""Checks whether this machine can run Likeness, and gives advice if a check fails. The command is `likeness doctor`."""

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

# The states of a finding. WRONG means that commands will fail. NOTE means that a feature is missing or slow, that a
# file must still be downloaded, or that memory or disk may be too small.
OK, NOTE, WRONG = "ok", "note", "wrong"

# We chose MEMORY_GIB. Training the recipe tiny takes 2.2 GiB in the training process and 2.0 GiB in the worker process
# (docs/train.md). Curation takes at most 2 GiB for each worker process (docs/curate.md).
MEMORY_GIB = 6
DISK_GIB = 10  # free space for a small dataset and its runs (ours); 100,000 crops of 512 px need 40 GB
OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
# maps a dependency to packages that contain the same modules and may replace the dependency (docs/speed.md)
REPLACEMENTS = {
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino"),
    "faiss-cpu": ("faiss-gpu", "faiss-gpu-cu12"),
}
EXTRAS = {  # maps the name of an extra (an optional set of dependencies) to its purpose
    "offline": "dlib: face models without a download, 68 landmarks, and a judge that no loss uses",
    "albumentations": "recipes that augment references, and the degradation as an albumentations transform",
    "iqa": "the metrics NIQE, MUSIQ, MANIQA and CLIP-IQA",
    "reference": "degradation with --engine basicsr",
}


@dataclass(frozen=True)
class Finding:
    """A result of a check."""

    name: str
    state: str  # OK, NOTE or WRONG
    result: str
    advice: str = ""  # what the user should do; empty if there is nothing to do


def examine(faces: str, folder: Path) -> Iterator[Finding]:
    """Yields the findings of `CHECKS`, then the findings about the face models `faces` and the disk of `folder`.

    If a check raises an exception, the exception becomes a finding, and the next check runs.
    """
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        *CHECKS.items(),
        ("face models", lambda: check_face_models(faces)),
        ("disk", lambda: check_disk(folder)),
    ]
    for name, check in checks:
        try:
            yield from check()
        except Exception as error:  # a broken installation may raise any exception
            yield Finding(
                name, WRONG, f"{type(error).__name__}: {_get_first_line(str(error))}", "Create the environment again."
            )


def check_python() -> Iterator[Finding]:
    result = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Finding("python", OK if fits else WRONG, result, "" if fits else "Use Python 3.11, 3.12 or 3.13.")


def check_packages() -> Iterator[Finding]:
    """Yields one finding about the versions of all dependencies, and one finding for each extra."""
    from packaging.requirements import Requirement

    try:
        declared = [Requirement(line) for line in requires("likeness") or ()]
    except PackageNotFoundError:
        advice = "Install Likeness with pip or `make install`."
        yield Finding("packages", WRONG, "Likeness is not installed, so its dependencies are unknown", advice)
        return
    wrong = _find_unmet([need for need in declared if need.marker is None or need.marker.evaluate({"extra": ""})])
    result = "; ".join(wrong) if wrong else "every dependency has a version that Likeness declares"
    yield Finding("packages", WRONG if wrong else OK, result, "Run pip install likeness again." if wrong else "")
    plain = {"extra": ""}
    for extra, purpose in EXTRAS.items():
        own = [
            need
            for need in declared
            if need.marker and need.marker.evaluate({"extra": extra}) and not need.marker.evaluate(plain)
        ]
        if not own:  # basicsr works only with Python below 3.13
            yield Finding(f"extra {extra}", NOTE, f"does not exist for this version of Python ({purpose})")
            continue
        missing = _find_unmet(own)
        result = f"{'; '.join(missing)} ({purpose})" if missing else purpose
        yield Finding(
            f"extra {extra}",
            NOTE if missing else OK,
            result,
            f"Run pip install 'likeness[{extra}]'." if missing else "",
        )


def _find_unmet(needs: list[Requirement]) -> list[str]:
    """Returns a phrase for each requirement that is missing or has a wrong version."""
    unmet = []
    for need in needs:
        names = (need.name, *REPLACEMENTS.get(need.name, ()))
        version = next((version for name in names if (version := find_version(name))), None)
        if version is None:
            unmet.append(f"{need.name} is missing")
        elif not need.specifier.contains(version, prereleases=True):
            unmet.append(f"{need.name} is {version} but must be {need.specifier}")
    return unmet


def check_memory() -> Iterator[Finding]:
    total = _read_memory_gib()
    if total is None:
        yield Finding("memory", NOTE, "the memory is unknown on this system")
        return
    enough = total >= MEMORY_GIB
    advice = f"{MEMORY_GIB} GiB or more are better for training. Give a smaller --workers and a larger --accumulate."
    yield Finding("memory", OK if enough else NOTE, f"{total:.1f} GiB", "" if enough else advice)


def check_cores() -> Iterator[Finding]:
    from manifests.runtime.workers import count_cores

    yield Finding("cores", OK, f"{count_cores()} of {os.cpu_count()} cores may be used")


def check_torch() -> Iterator[Finding]:
    """Yields a finding about the releases of torch and torchvision, and a finding about the GPUs.

    If torch and torchvision do not belong to the same release, the import of torchvision fails because an operator is
    unknown.
    """
    from packaging.requirements import Requirement

    torch, vision = find_version("torch"), find_version("torchvision")
    if torch is None or vision is None:
        missing = " and ".join(name for name in ("torch", "torchvision") if find_version(name) is None)
        yield Finding("torch", WRONG, f"{missing} is missing", "Run pip install likeness again.")
        return
    result = f"torch {torch}, torchvision {vision}"
    wants = next((r for r in map(Requirement, requires("torchvision") or ()) if r.name == "torch"), None)
    base = torch.split("+")[0]
    if wants is not None and not wants.specifier.contains(base, prereleases=True):
        yield Finding("torch", WRONG, result, f"This torchvision needs torch{wants.specifier}. Install both together.")
        return
    # the code runs in another process, because packages of different releases may abort the process that imports them,
    # and because a GPU driver may hang
    code = (
        "import torch, torchvision\n"
        "torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), .5)\n"
        "names = [torch.cuda.get_device_name(i) + f' {torch.cuda.mem_get_info(i)[1] / 2**30:.0f} GiB'"
        " for i in range(torch.cuda.device_count())]\n"
        "print(', '.join(names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        last = _get_first_line("\n".join(reversed(done.stderr.strip().splitlines())))
        yield Finding("torch", WRONG, f"{result}: {last}", "Install torch and torchvision of one release together.")
        return
    yield Finding("torch", OK, result)
    gpus = done.stdout.strip()
    yield Finding("gpu", OK if gpus else NOTE, gpus or "torch finds none. The recipe tiny is made for a CPU.")


def check_opencv() -> Iterator[Finding]:
    """Yields a finding that says whether all installed packages of OpenCV have the same version.

    The packages of OpenCV overwrite each other's files.
    """
    versions = {name: version for name in OPENCV if (version := find_version(name))}
    result = ", ".join(f"{name} {version}" for name, version in versions.items()) or "not installed"
    fits = len(set(versions.values())) == 1
    packages = " ".join(f"{name}==VERSION" for name in versions)
    advice = f"Install the same version of all these packages: pip install --force-reinstall {packages}."
    yield Finding("opencv", OK if fits else WRONG, result, "" if fits else advice)


def check_tables() -> Iterator[Finding]:
    """Yields a finding that says whether duckdb can pass a result to polars. duckdb needs pyarrow to pass a result."""
    import duckdb
    import polars
    import pyarrow

    same = duckdb.connect().sql("SELECT 42 AS answer").pl()["answer"].to_list() == [42]
    result = f"duckdb {duckdb.__version__}, polars {polars.__version__}, pyarrow {pyarrow.__version__}"
    yield Finding("tables", OK if same else WRONG, result, "" if same else "Install duckdb, polars and pyarrow again.")


def check_weights() -> Iterator[Finding]:
    """Yields a finding for each backbone of losses and metrics.

    The finding says whether the weights of the backbone are on this machine.
    """
    from train.losses.backbones import BACKBONES, find_local_file, get_file_name

    for backbone in BACKBONES:
        name = get_file_name(backbone)
        file = find_local_file(name, None)
        advice = f"The file is downloaded at first use. Without a network, put {name} into the folder of --weights."
        yield Finding(
            f"weights {backbone}", OK if file else NOTE, str(file or "not on this machine"), "" if file else advice
        )


def check_face_models(spec: str) -> Iterator[Finding]:
    """Yields a finding for each file of the face models `spec`, with the file's hash and licence.

    Nothing is downloaded. `spec` is a value of the option --faces.
    """
    from curate.faces.load import load_faces
    from curate.faces.models.insightface_models import PACK_ROOT, list_packs

    packs = list_packs()
    if spec == "auto":
        spec = f"insightface:{packs[0]}" if packs else "dlib"
        result = (
            ", ".join(packs)
            or f"none in {PACK_ROOT}; insightface downloads buffalo_l at first use; if the download fails, dlib is used"
        )
        yield Finding("packs", OK if packs else NOTE, result)
    pack = spec.removeprefix("insightface:")
    if pack != spec and pack not in packs and not Path(pack).expanduser().is_dir():
        advice = "Give --faces insightface:FOLDER with a folder of .onnx files, or --faces dlib."
        yield Finding("face models", WRONG, f"{spec} is not on this machine", advice)
        return
    try:
        models = load_faces(spec)
    except FaceModelError as error:
        yield Finding("face models", WRONG, spec, str(error))
        return
    for file in models.files:
        result = f"{file.path.name} sha256 {file.sha256[:16]}, {file.licence}"
        yield Finding(file.role, OK, f"{models.spec}: {result}")


def check_disk(folder: Path) -> Iterator[Finding]:
    """Yields a finding about the disk of `folder`.

    If the folder does not exist, its nearest existing parent is checked.

    The state is WRONG if a file cannot be written, flushed or renamed there, and NOTE if little space is free.
    """
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
        yield Finding("disk", WRONG, f"{nearest}: {error.strerror}", "Give another folder with --at.")
        return
    enough = free >= DISK_GIB
    advice = f"Datasets and runs need {DISK_GIB} GiB or more. Free some space, or use another disk."
    yield Finding("disk", OK if enough else NOTE, f"{free:.0f} GiB free at {nearest}", "" if enough else advice)


CHECKS: dict[str, Callable[[], Iterator[Finding]]] = {
    "python": check_python,
    "packages": check_packages,
    "memory": check_memory,
    "cores": check_cores,
    "torch": check_torch,
    "opencv": check_opencv,
    "tables": check_tables,
    "weights": check_weights,
}


def _read_memory_gib() -> float | None:
    """Returns the memory in GiB that this process may use, or None if it is unknown.

    If the container has a lower limit than the memory of the machine, returns this limit.
    """
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    limits = [machine]
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(limit).read_text()))
        except (OSError, ValueError):  # the file does not exist, or contains "max"
            continue
    return min(limits) / 2**30


def _get_first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else ""
