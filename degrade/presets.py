"""Lists the presets. Each preset has one line with its ranges. A comment names the paper or the code of each preset."""

from __future__ import annotations

from pathlib import Path

from degrade.preset_files import read_preset
from degrade.sampling import Order, Preset, SecondOrder
from manifests.errors import BadInput

# The kernel sides 7 to 21 are from BasicSR's realesrgan_dataset.py. Every other number is from Real-ESRGAN's
# options/train_realesrgan_x4plus.yml. Real-ESRGAN sharpens its targets (USM) before the degradation. Likeness does
# not sharpen the targets.
# fmt: off
_SHARES = (("iso", 0.45), ("aniso", 0.25), ("generalized_iso", 0.12), ("generalized_aniso", 0.03),
           ("plateau_iso", 0.12), ("plateau_aniso", 0.03))
_REAL_ESRGAN = SecondOrder(
    Order(blur=(0.2, 3), size=(7, 21), kernels=_SHARES, betag=(0.5, 4), betap=(1, 2), sinc=0.1, blurred=1.0,
          resize=(0.2, 0.7, 0.1), scale=(0.15, 1.5), gaussian=0.5, noise=(1, 30), poisson=(0.05, 3.0),
          gray_noise=0.4, jpeg=(30, 95)),
    Order(blur=(0.2, 1.5), size=(7, 21), kernels=_SHARES, betag=(0.5, 4), betap=(1, 2), sinc=0.1, blurred=0.8,
          resize=(0.3, 0.4, 0.3), scale=(0.3, 1.2), gaussian=0.5, noise=(1, 25), poisson=(0.05, 2.5),
          gray_noise=0.4, jpeg=(30, 95)),
    small=4, final_sinc=0.8,
)

# The sources of the presets:
#
# `gfpgan`: the numbers are from GFPGAN's options/train_gfpgan_v1.yml. The keys are blur_sigma, downsample_range,
#   noise_range, jpeg_range, color_jitter_prob, color_jitter_shift, color_jitter_pt_prob, gray_prob, kernel_prob (.5 and
#   .5) and blur_kernel_size (41). The file does not set gt_gray, so the target keeps its colours.
# `codeformer`: the numbers are those of the small degradation in stage III, from CodeFormer's
#   options/CodeFormer_stage3.yml. Our preset does not change colours.
# `codeformer-large`: the numbers are those of the large degradation in stage II, from the keys *_large of the same
#   file.
# `diffbir`: the numbers are from DiffBIR's configs/train/train_stage1.yaml and train_stage2.yaml. Both files contain
#   the same ranges.
# `difface`: the numbers are from DifFace's configs/training/swinir_ffhq512.yaml. DifFace also makes the target gray
#   (gt_gray). Our target keeps its colours.
# `osediff-face`: the numbers are from OSEDiff's dataloaders/params_codeformer.yml.
# `refldm-severe`: the numbers are from FFHQ-Ref-Severe in section 4.3 of ReF-LDM (arXiv 2412.05043). The code of the
#   chain is in ReF-LDM's ldm/data/ir.py.
# `refldm-moderate`: the numbers are from FFHQ-Ref-Moderate in section 4.3 of ReF-LDM. ReF-LDM itself trains with the
#   ranges 0-16 for the blur, 1-32 for the downsample, 0-20 for the noise and 30-100 for JPEG (configs/refldm.yaml).
# `faceme`: the numbers are the defaults of FaceMeDataset in FaceMe's dataset.py.
# `instantrestore`: the numbers are from InstantRestore's face_replace/data/datasets/restore_dataset.py. Every kernel is
#   anisotropic, the factors are whole numbers from 1 to 12, and the quality is from 10 to 19. InstantRestore resizes
#   tensors with torchvision 0.15.2, which does not antialias. Therefore the resize of this preset does not antialias.
#   InstantRestore changes the colours of the input and of the target in the same way. Our preset does not change
#   colours.
# `real-esrgan`: the numbers are those of _REAL_ESRGAN above. The result of Real-ESRGAN's chain has a quarter of the
#   side of the input. The bicubic resize to the full size is ours.
# `bicubic-x8`: ReFine says "x8 SR task = bicubic". We have not seen how ReFine resizes. Our chain shrinks with MATLAB's
#   imresize, rounds to 8 bits, and enlarges with imresize.
# `refine`: the numbers and the order of the steps are from ReFineFIR's refinefir/degradation.py, for images of 256 px.
#   The noise comes before the downsample, and JPEG comes last, at full size. The downsample is torch's `area`.
#   ReFineFIR's JPEG is DiffJPEG. Our JPEG is libjpeg's.
# `severe`: every number is ours. This preset is for restoration with references, when the degraded face alone is not
#   recognizable.
#
# OSDFace and HonestFace have no preset, because we have not seen their ranges.
_TABLE = (
    #      name               blur sigma down       noise     JPEG       resize      shift, then others by name
    Preset("gfpgan",          (0.1, 10), (0.8, 8),  (0, 20),  (60, 100), "bilinear", (0.3, 20), jitter=0.3, gray=0.01),
    Preset("codeformer",      (0.1, 10), (1, 12),   (0, 15),  (60, 100), "bilinear"),
    Preset("codeformer-large",(1, 15),   (4, 30),   (0, 20),  (30, 80),  "bilinear"),
    Preset("diffbir",         (0.1, 12), (1, 12),   (0, 15),  (30, 100), "bilinear"),
    Preset("difface",         (0.1, 15), (0.8, 32), (0, 20),  (30, 100), "bilinear", gray=0.01),
    Preset("osediff-face",    (1, 15),   (1, 30),   (0, 20),  (30, 100), "bilinear"),
    Preset("refldm-severe",   (8, 16),   (8, 32),   (0, 20),  (30, 100), "bilinear"),
    Preset("refldm-moderate", (0, 8),    (1, 8),    (0, 15),  (60, 100), "bilinear"),
    Preset("faceme",          (0.2, 10), (1, 16),   (0, 15),  (30, 100), "bilinear"),
    Preset("instantrestore",  (0.1, 12), (1, 12),   (10, 20), (10, 20),  "bilinear", iso=0, whole=True),
    Preset("real-esrgan",     None,      None,      None,     None,      "bicubic",  orders=_REAL_ESRGAN),
    Preset("bicubic-x8",      None,      (8, 8),    None,     None,      "imresize", save=True),
    Preset("refine",          (0.1, 5),  (0.8, 8),  (0, 50),  (60, 100), "pool",     kernel=21, upsample="bilinear",
           full_size=True),
    Preset("severe",          (4, 16),   (8, 32),   (5, 25),  (20, 70),  "bilinear", motion=(0.2, 41), gray_noise=0.2),
)
# fmt: on

PRESETS: dict[str, Preset] = {preset.name: preset for preset in _TABLE}


def find_preset(name: str) -> Preset:
    """Returns the built-in preset `name`, or reads the preset from the file `name` if it ends in .toml or .json.

    Raises BadInput if `name` is unknown, or if the file is not a valid preset. The message for an unknown name lists
    all presets.
    """
    if name in PRESETS:
        return PRESETS[name]
    if Path(name).suffix.lower() in (".toml", ".json"):
        preset = read_preset(Path(name))
        if preset.name in PRESETS:
            raise BadInput(f"{name}: the name {preset.name} belongs to a built-in preset; choose another name.")
        return preset
    raise BadInput(
        f"There is no preset {name}; the presets are {', '.join(PRESETS)}. Name one of these presets, or a .toml or "
        ".json file."
    )
