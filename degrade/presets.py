"""What the literature degrades with, one line a preset, and the draw from a preset to a θ."""

from __future__ import annotations

from pathlib import Path

from degrade.preset_files import read_preset
from degrade.sampling import Order, Preset, SecondOrder
from manifests.errors import BadInput

# Real-ESRGAN options/train_realesrgan_x4plus.yml, every number; kernel sides 7 to 21 are in BasicSR's
# realesrgan_dataset.py. Its targets are sharpened (USM) before they are degraded, which is left out here: a degraded
# picture is of the picture given.
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

# gfpgan            GFPGAN options/train_gfpgan_v1.yml, every number: blur_sigma, downsample_range, noise_range,
#                   jpeg_range, color_jitter_prob and _shift, color_jitter_pt_prob, gray_prob; kernel_prob .5/.5,
#                   blur_kernel_size 41. gt_gray is not set there: the target keeps its colours.
# codeformer        CodeFormer options/CodeFormer_stage3.yml, the small degradation of stage III; no colour there.
# codeformer-large  the same file, the *_large ranges: the large degradation of stage II.
# diffbir           DiffBIR configs/train/train_stage1.yaml and train_stage2.yaml, which agree.
# difface           DifFace configs/training/swinir_ffhq512.yaml. It makes the target gray too (gt_gray); we do not.
# osediff-face      OSEDiff dataloaders/params_codeformer.yml.
# refldm-severe     ReF-LDM (arXiv 2412.05043), section 4.3, FFHQ-Ref-Severe; the chain: ldm/data/ir.py.
# refldm-moderate   the same section, FFHQ-Ref-Moderate. (It trains on 0-16, 1-32, 0-20, 30-100: configs/refldm.yaml.)
# faceme            FaceMe dataset.py, the defaults of FaceMeDataset.
# instantrestore    InstantRestore face_replace/data/datasets/restore_dataset.py: always anisotropic, whole factors
#                   1-12, quality 10-19; its Resize (of tensors, torchvision 0.15.2) does not antialias, nor does ours.
#                   It jitters and grays input and target alike, so that is no degradation.
# real-esrgan       above; bicubic up to the size of the picture is ours (Real-ESRGAN leaves it at a quarter).
# bicubic-x8        ReFine, "x8 SR task = bicubic". Ours: MATLAB's imresize, saving between at 8 bits, bicubic up again.
# severe            ours, every number: for work with references, where the face itself need not be readable. The ranges
#                   of ReFine ("severe"), OSDFace and HonestFace were never published.
_TABLE = (
    #      name               blur sigma down       noise     JPEG       resize      shift, then by name
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
    Preset("severe",          (4, 16),   (8, 32),   (5, 25),  (20, 70),  "bilinear", motion=(0.2, 41), gray_noise=0.2),
)
# fmt: on

PRESETS: dict[str, Preset] = {preset.name: preset for preset in _TABLE}


def find_preset(name: str) -> Preset:
    """The preset of that name, or the one in a file whose name ends in .toml or .json.

    Raises BadInput, which lists the presets there are, or says what is wrong with the file.
    """
    if name in PRESETS:
        return PRESETS[name]
    if Path(name).suffix.lower() in (".toml", ".json"):
        preset = read_preset(Path(name))
        if preset.name in PRESETS:
            raise BadInput(f"{name}: the name {preset.name} is taken by a preset of ours; choose another.")
        return preset
    raise BadInput(f"There is no preset {name}; the presets are {', '.join(PRESETS)}, or a .toml or .json file.")
