"""Every metric with its unit, its direction, its convention and its source: what a table of results has to say."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One figure about a restored face."""

    title: str  # what a table's head says
    unit: str  # empty for a pure number
    better: str  # "higher", "lower", or empty where neither is
    digits: int  # after the point, in a table
    convention: str  # how it is computed, a sentence to be stored beside every figure
    source: str  # who published it, or "ours"
    needs: str = ""  # what must be there beside the pictures; train.metrics.measure.available says whether it is
    nan_reason: str = ""  # what it means that an image has none
    min_side: int = 0  # pixels a side; a smaller image has none
    # "image": train.metrics.measure has it for each image; "wrong": likewise, where wrong references are given;
    # "set": one figure for a whole set, train.metrics.fid.fid
    scope: str = "image"


_TORCHVISION = "torchvision's VGG16 weights"
_NO_FACE = "no face was found in the restored image or in the target"
_DLIB = "dlib's 68-point predictor (the extra `offline`)"
_68 = (
    "68 iBUG points of dlib's predictor at 512 px, in one fixed box of the FFHQ template; only where the judge's "
    "detector finds a face in both images"
)
_ALD = (
    f"ours, the published formula is not known: what the least-squares affine map from the restored points to the "
    f"target's leaves; {_68}"
)
_ASFF = "ours, after ASFFNet's choice of a reference (Li et al. 2020, code)"
_FID = (
    "Fréchet distance of 2048 Inception-v3 features (the weights of 2015-12-05, TensorFlow's bilinear 299 px) between "
    "the restored images and "
)

# fmt: off
METRICS: dict[str, Metric] = {
    # --- pictures: restored against target ---
    "psnr": Metric("PSNR", "dB", "higher", 2,
        "over RGB in 8 bits, a figure an image; equal images count as 100 dB",
        "ITU-T J.340"),
    "ssim": Metric("SSIM", "", "higher", 4,
        "mean of R, G and B in 8 bits; 11 x 11 Gaussian window of sigma 1.5, K .01 and .03, borders left out",
        "Wang et al. 2004", nan_reason="the image is under 11 px", min_side=11),
    "ms_ssim": Metric("MS-SSIM", "", "higher", 4,
        "mean of R, G and B in 8 bits, torchmetrics' (mirrored borders at the last scale); five scales from 176 "
        "px on; below, as many as fit, exponents divided by their sum (ours)",
        "Wang et al. 2003", nan_reason="the image is under 11 px", min_side=11),
    "lpips": Metric("LPIPS", "", "lower", 4,
        "version 0.1 with VGG16, at the image's own size; other papers print the AlexNet one under the same name",
        "Zhang et al. 2018", _TORCHVISION, "the image is under 16 px", 16),
    "lpips_alex": Metric("LPIPS (AlexNet)", "", "lower", 4,
        "version 0.1 with AlexNet, at the image's own size",
        "Zhang et al. 2018", "torchvision's AlexNet weights", "the image is under 31 px", 31),
    "dists": Metric("DISTS", "", "lower", 4,
        "at the image's own size, not resized to 256 px as the authors' script does",
        "Ding et al. 2020", _TORCHVISION, "the image is under 16 px", 16),
    # --- pictures: restored against a set of pictures ---
    "fid": Metric("FID", "", "lower", 2,
        _FID + "the test targets; biased upwards for few images, so compare only sets of one size",
        "Heusel et al. 2017", "the Inception weights of pytorch-fid", scope="set"),
    "fid_folder": Metric("FID (folder)", "", "lower", 2,
        _FID + "the named folder; biased upwards for few images, so compare only sets of one size",
        "Heusel et al. 2017", "the Inception weights of pytorch-fid", scope="set"),
    # --- pictures: restored alone ---
    "niqe": Metric("NIQE", "", "lower", 3,
        "pyiqa's niqe: luma of YIQ, blocks of 96 px, the original parameters",
        "Mittal et al. 2013", "pyiqa and its parameters", "the image is under 96 px", 96),
    "musiq": Metric("MUSIQ", "", "higher", 2,
        "pyiqa's musiq, trained on KonIQ-10k, sides of 224 and 384 px",
        "Ke et al. 2021", "pyiqa and its weights", "the image is under 32 px", 32),
    "maniqa": Metric("MANIQA", "", "higher", 4,
        "pyiqa's maniqa, trained on KonIQ-10k, mean over 20 evenly spread crops of 224 px",
        "Yang et al. 2022", "pyiqa and its weights", "the image is under 32 px", 32),
    "clipiqa": Metric("CLIP-IQA", "", "higher", 4,
        "pyiqa's clipiqa: CLIP's RN50 at the image's own size, mean over five pairs of prompts",
        "Wang et al. 2023", "pyiqa and CLIP's RN50", "the image is under 32 px", 32),
    # --- identity ---
    "id_target": Metric("identity to target", "", "higher", 4,
        "cosine between the judge's embeddings of the restored image and of the target, cut out by the FFHQ template "
        "without a detector",
        "Deng et al. 2019"),
    "id_references": Metric("identity to references", "", "", 4,
        "IPS: mean cosine between the judge's embeddings of the restored image and of each reference of the person; "
        "copying raises it, so read it beside identity to target",
        "ReFine (IPS)", nan_reason="there is no reference"),
    "deg_published": Metric("Deg", "°", "lower", 2,
        "angle between ResNet-18 ArcFace features (resnet18_110) of the whole crop, gray, 128 px; pairs under 1 degree "
        "are left out, as published",
        "VQFR's script", "resnet18_110.pth", "the pair is under 1 degree apart, which the published script leaves out"),
    "deg_judge": Metric("Deg (judge)", "°", "lower", 2,
        "angle between the judge's embeddings of the restored image and of the target; nothing left out; not "
        "comparable with the published Deg",
        "ours"),
    # --- landmarks ---
    "face_restored": Metric("faces found", "", "higher", 3,
        "1 where the judge's detector finds a face in the restored image, else 0",
        "ours"),
    "face_target": Metric("faces found in targets", "", "", 3,
        "1 where the judge's detector finds a face in the target, else 0",
        "ours"),
    "lmd": Metric("LMD", "px", "lower", 3,
        f"mean distance of points; {_68}; published figures take other points (AWing)",
        "VQFR's script, on dlib's points", _DLIB, _NO_FACE),
    "l2_ld": Metric("L2-LD", "px", "lower", 3,
        "mean distance of the judge's five landmarks (eyes, nose, mouth corners), in pixels of a 512 px crop; "
        "published figures take points that are not known",
        "ours, after HonestFace's table", nan_reason=_NO_FACE),
    "ald_eyes": Metric("ALD eyes (ours)", "px", "lower", 3,
        f"{_ALD}; 22 points of brows and eyes, Frobenius norm", _ASFF, _DLIB, _NO_FACE),
    "ald_mouth": Metric("ALD mouth (ours)", "px", "lower", 3,
        f"{_ALD}; 20 points of the mouth, Frobenius norm", _ASFF, _DLIB, _NO_FACE),
    "ald_eyes_mean": Metric("ALD eyes, mean (ours)", "px", "lower", 3,
        f"{_ALD}; 22 points of brows and eyes, mean over points", _ASFF, _DLIB, _NO_FACE),
    "ald_mouth_mean": Metric("ALD mouth, mean (ours)", "px", "lower", 3,
        f"{_ALD}; 20 points of the mouth, mean over points", _ASFF, _DLIB, _NO_FACE),
    "ald_eyes_affine": Metric("|A - I| eyes (ours)", "", "lower", 4,
        "Frobenius norm of the affine map's 3 x 2 matrix less the identity, which ALD does not see: about the centre "
        "of the target's 22 points, a shift in sides of the crop",
        "ours", _DLIB, _NO_FACE),
    "ald_mouth_affine": Metric("|A - I| mouth (ours)", "", "lower", 4,
        "Frobenius norm of the affine map's 3 x 2 matrix less the identity, which ALD does not see: about the centre "
        "of the target's 20 points, a shift in sides of the crop",
        "ours", _DLIB, _NO_FACE),
    # --- copying ---
    "copy_ratio": Metric("copy ratio", "", "lower", 4,
        "cosine of the judge's embeddings to the reference, less the larger of that to the target and that between the "
        "two, not below 0, by 1 less that between the two: 0 for the target, 1 for a reference; the largest over the "
        "references",
        "ours", nan_reason="there is no reference that differs from the target"),
    "takeover": Metric("identity takeover", "", "lower", 3,
        "1 where the judge finds the restored image nearer to any wrong reference than to the target, else 0; where "
        "none of them was shown, it says how often that is so anyway",
        "ours", nan_reason="there is no wrong reference", scope="wrong"),
}
# fmt: on
