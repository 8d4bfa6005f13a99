"""Lists all metrics, each with its unit, its direction, its convention and its source."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """Describes one metric of a restored face."""

    title: str  # the head of the column in a table
    unit: str  # empty for a number without a unit
    better: str  # "higher", "lower", or empty if neither is better
    digits: int  # digits after the decimal point in a table
    convention: str  # how the value is computed; every result contains this text
    source: str  # the publication, or "ours"
    requirement: str = ""  # software or weights that the metric needs; see train.metrics.measure.explain_missing
    nan_reason: str = ""  # why an image may have no value
    min_side: int = 0  # side of the smallest image that has a value, in pixels
    # "image": train.metrics.measure computes a value for each image.
    # "wrong": train.metrics.measure computes a value for each image that has wrong references (of another person).
    # "set": train.metrics.fid computes one value for a whole set of images.
    scope: str = "image"


_TORCHVISION = "torchvision's VGG16 weights"
_NO_FACE = "no face was found in the restored image or in the target"
_DLIB = "dlib's 68-point predictor (the extra `offline`)"
_68 = (
    "the points are the 68 iBUG points that dlib's predictor finds at 512 px, in one fixed box of the FFHQ template; "
    "only for images where the judge's detector finds a face in the restored image and in the target"
)
_ALD = (
    "the distance that remains after the least-squares affine map from the restored points to the target's points; the "
    f"formula is ours, because we have not seen the published formula; {_68}"
)
_ASFF = "ours, after ASFFNet's choice of a reference (Li et al. 2020, code)"
_AFFINE = (
    "Frobenius norm of the affine map's 3 x 2 matrix minus the identity; ALD does not measure this map; the linear "
    "part is about the centre of the target's"
)
_FID = (
    "Fréchet distance between 2048 Inception-v3 features (the weights of 2015-12-05, TensorFlow's bilinear resize to "
    "299 px) of the restored images and of "
)
_FEW = "; too high for few images, so compare only sets with the same number of images"

# fmt: off
METRICS: dict[str, Metric] = {
    # --- images: the restored image and its target ---
    "psnr": Metric("PSNR", "dB", "higher", 2,
        "over RGB in 8 bits, for each image, over the pixels that come from the photo; equal images count as 100 dB",
        "ITU-T J.340"),
    "ssim": Metric("SSIM", "", "higher", 4,
        "mean of R, G and B in 8 bits; Gaussian window of 11 x 11 px, sigma 1.5; K .01 and .03; without borders; "
        "windows whose centre comes from the photo",
        "Wang et al. 2004", nan_reason="the image is smaller than 11 px", min_side=11),
    "ms_ssim": Metric("MS-SSIM", "", "higher", 4,
        "mean of R, G and B in 8 bits, by torchmetrics (mirrored borders at the last scale); five scales from 176 px "
        "on; a smaller image has only the scales that fit, with exponents divided by their sum (ours)",
        "Wang et al. 2003", nan_reason="the image is smaller than 11 px", min_side=11),
    "lpips": Metric("LPIPS", "", "lower", 4,
        "version 0.1 with VGG16, at the image's own size; some papers report the AlexNet version under the same name",
        "Zhang et al. 2018", _TORCHVISION, "the image is smaller than 16 px", 16),
    "lpips_alex": Metric("LPIPS (AlexNet)", "", "lower", 4,
        "version 0.1 with AlexNet, at the image's own size",
        "Zhang et al. 2018", "torchvision's AlexNet weights", "the image is smaller than 31 px", 31),
    "dists": Metric("DISTS", "", "lower", 4,
        "at the image's own size; the authors' script resizes to 256 px",
        "Ding et al. 2020", _TORCHVISION, "the image is smaller than 16 px", 16),
    # --- images: a set of restored images and another set ---
    "fid": Metric("FID", "", "lower", 2,
        _FID + "the test targets" + _FEW,
        "Heusel et al. 2017", "the Inception weights of pytorch-fid", scope="set"),
    "fid_folder": Metric("FID (folder)", "", "lower", 2,
        _FID + "the folder of --fid-folder" + _FEW,
        "Heusel et al. 2017", "the Inception weights of pytorch-fid", scope="set"),
    # --- images: the restored image alone ---
    "niqe": Metric("NIQE", "", "lower", 3,
        "pyiqa's niqe: luma of YIQ, blocks of 96 px, the original parameters",
        "Mittal et al. 2013", "pyiqa and its parameters", "the image is smaller than 96 px", 96),
    "musiq": Metric("MUSIQ", "", "higher", 2,
        "pyiqa's musiq, trained on KonIQ-10k, at sides of 224 and 384 px",
        "Ke et al. 2021", "pyiqa and its weights", "the image is smaller than 32 px", 32),
    "maniqa": Metric("MANIQA", "", "higher", 4,
        "pyiqa's maniqa, trained on KonIQ-10k; mean over 20 evenly spread crops of 224 px",
        "Yang et al. 2022", "pyiqa and its weights", "the image is smaller than 32 px", 32),
    "clipiqa": Metric("CLIP-IQA", "", "higher", 4,
        "pyiqa's clipiqa: CLIP's RN50 at the image's own size; mean over five pairs of prompts",
        "Wang et al. 2023", "pyiqa and CLIP's RN50", "the image is smaller than 32 px", 32),
    # --- identity ---
    "id_target": Metric("identity to target", "", "higher", 4,
        "cosine between the judge's embeddings of the restored image and of the target; the faces are cut out by the "
        "FFHQ template, without a detector",
        "Deng et al. 2019"),
    "same_person": Metric("counted as the person", "", "higher", 3,
        "1 if the identity to target reaches the threshold of the judge for one person, otherwise 0",
        "ours"),
    "id_references": Metric("identity to references", "", "", 4,
        "IPS: mean cosine between the judge's embeddings of the restored image and of each reference of the person; "
        "copying a reference raises it, so read it together with identity to target",
        "ReFine (IPS)", nan_reason="there is no reference"),
    "deg_published": Metric("Deg", "°", "lower", 2,
        "angle between ResNet-18 ArcFace features (resnet18_110) of the whole crops, gray, 128 px; pairs below 1 "
        "degree are left out, as in the published script",
        "VQFR's script", "resnet18_110.pth", "the angle is below 1 degree; the published script leaves such pairs out"),
    "deg_judge": Metric("Deg (judge)", "°", "lower", 2,
        "angle between the judge's embeddings of the restored image and of the target; no pair is left out; not "
        "comparable with the published Deg",
        "ours"),
    # --- landmarks ---
    "face_restored": Metric("faces found", "", "higher", 3,
        "1 if the judge's detector finds a face in the restored image, otherwise 0",
        "ours"),
    "face_target": Metric("faces found in targets", "", "", 3,
        "1 if the judge's detector finds a face in the target, otherwise 0",
        "ours"),
    "lmd": Metric("LMD", "px", "lower", 3,
        f"mean distance between points; {_68}; published figures use other points (AWing)",
        "VQFR's script, on dlib's points", _DLIB, _NO_FACE),
    "l2_ld": Metric("L2-LD", "px", "lower", 3,
        "mean distance between the judge's five landmarks (eyes, nose, corners of the mouth), in pixels of a 512 px "
        "crop; we have not seen which points published figures use",
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
        f"{_AFFINE} 22 points of brows and eyes, and the shift is in sides of the crop",
        "ours", _DLIB, _NO_FACE),
    "ald_mouth_affine": Metric("|A - I| mouth (ours)", "", "lower", 4,
        f"{_AFFINE} 20 points of the mouth, and the shift is in sides of the crop",
        "ours", _DLIB, _NO_FACE),
    # --- copying ---
    "copy_ratio": Metric("copy ratio", "", "lower", 4,
        "max(0, s(x, r) - max(s(x, t), s(t, r))) / (1 - s(t, r)) with the cosine s between the judge's embeddings of "
        "the restored image x, the target t and a reference r; the largest over the references; 0 for the target, "
        "1 for a reference",
        "ours", nan_reason="there is no reference that differs from the target"),
    "takeover": Metric("identity takeover", "", "lower", 3,
        "1 if the judge finds the restored image nearer to any wrong reference than to the target, otherwise 0; "
        "for a system that was not given the wrong references, the figure is the rate by chance",
        "ours", nan_reason="there is no wrong reference", scope="wrong"),
}
# fmt: on
