"""Lists all metrics: for each metric its unit, whether higher or lower is better, how it is computed, and its
source."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """Describes one metric of a restored face."""

    title: str  # The name of the metric in tables.
    unit: str  # The unit of the value, or an empty text for a number without a unit.
    better: str  # "higher", "lower", or an empty text if a higher value is neither better nor worse.
    digits: int  # The number of digits after the decimal point in tables.
    convention: str  # A text that says how the value is computed. It does not end with a period.
    source: str  # The publication that defines the metric, or "ours".
    requirement: str = ""  # The software or the weights that the metric needs.
    nan_reason: str = ""  # Why the value of an image can be NaN.
    min_side: int = 0  # An image whose side has fewer pixels than this has no value.
    # "image": the metric has a value for each image.
    # "wrong": the metric has a value for each image that has references of another person.
    # "set": the metric has one value for a whole set of images.
    scope: str = "image"


INCEPTION = "the Inception weights of pytorch-fid"
_TORCHVISION = "torchvision's VGG16 weights"
_NO_FACE = "no face was found in the restored image or in the target"
DLIB = "dlib's 68-point predictor (the extra `offline`)"
_68 = (
    "dlib's predictor finds the 68 iBUG points at 512 px, in one fixed box of the FFHQ template. The value exists "
    "only if the judge's detector finds a face in the restored image and in the target"
)
_ALD = (
    "The value is the distance that remains after the least-squares affine map from the restored points to the points "
    f"of the target. We have not seen the published formula, so this formula is ours. {_68}."
)
_ASFF = "ours, after ASFFNet's choice of a reference (Li et al. 2020, code)"
_AFFINE = (
    "The value is the Frobenius norm of A - I for the affine map A from the restored points to the points of the "
    "target. The linear part of A acts around the centre of the target's points. The unit of the shift is the side of "
    "the crop."
)
_FID = (
    "The value is the Fréchet distance between Inception-v3 features of the restored images and of {}. Each image has "
    "2048 features. The weights have the date 2015-12-05. The value is too high for few images, so compare only sets "
    "with the same number of images"
)

# fmt: off
METRICS: dict[str, Metric] = {
    # --- the image quality of a restored image, compared with its target ---
    "psnr": Metric("PSNR", "dB", "higher", 2,
        "The PSNR is computed for each image over RGB in 8 bits. Only pixels that come from the "
        "photo count. Equal images count as 100 dB",
        "ITU-T J.340"),
    "ssim": Metric("SSIM", "", "higher", 4,
        "The value is the mean over R, G and B in 8 bits. The window is a Gaussian of 11 x 11 px with sigma 1.5. The "
        "constants K are .01 and .03. Windows that cross the border do not count, and "
        "windows whose centre lies outside the photo do not count either",
        "Wang et al. 2004", nan_reason="the image is smaller than 11 px", min_side=11),
    "psnr_y": Metric("PSNR (Y)", "dB", "higher", 2,
        "The PSNR is computed for each image over the luma Y of BT.601 (16 to 235 of 255), which is not rounded, as in "
        "BasicSR. Only pixels that come from the photo count. Equal images count as 100 dB",
        "ITU-T J.340, BasicSR's test_y_channel"),
    "ssim_y": Metric("SSIM (Y)", "", "higher", 4,
        "The value is the SSIM of the luma Y of BT.601 (16 to 235 of 255), which is not rounded, as in BasicSR. "
        "The window and the constants are those of SSIM, and the same windows count",
        "Wang et al. 2004, BasicSR's test_y_channel", nan_reason="the image is smaller than 11 px", min_side=11),
    "ms_ssim": Metric("MS-SSIM", "", "higher", 4,
        "The value is the mean over R, G and B in 8 bits, computed by torchmetrics with mirrored borders at the last "
        "scale. An image of 176 px or more has five scales. A smaller image has fewer scales, and the "
        "exponents of its scales are divided by their sum (ours)",
        "Wang et al. 2003", nan_reason="the image is smaller than 11 px", min_side=11),
    "vif": Metric("VIF", "", "higher", 4,
        "The value is VIF in the pixel domain over RGB in 8 bits, computed by torchmetrics",
        "Sheikh and Bovik 2006", nan_reason="the image is smaller than 41 px", min_side=41),
    "lpips": Metric("LPIPS", "", "lower", 4,
        "The value is LPIPS version 0.1 with VGG16. The image keeps its own size. Some papers report the AlexNet "
        "version, which they also call LPIPS",
        "Zhang et al. 2018", _TORCHVISION, "the image is smaller than 16 px", 16),
    "lpips_alex": Metric("LPIPS (AlexNet)", "", "lower", 4,
        "The value is LPIPS version 0.1 with AlexNet. The image keeps its own size",
        "Zhang et al. 2018", "torchvision's AlexNet weights", "the image is smaller than 31 px", 31),
    "dists": Metric("DISTS", "", "lower", 4,
        "The image keeps its own size. The script of the authors resizes the image to 256 px",
        "Ding et al. 2020", _TORCHVISION, "the image is smaller than 16 px", 16),
    # --- the image quality of a set of restored images, compared with another set ---
    "fid": Metric("FID", "", "lower", 2,
        _FID.format("the test targets"),
        "Heusel et al. 2017", INCEPTION, scope="set"),
    "fid_folder": Metric("FID (folder)", "", "lower", 2,
        _FID.format("the folder of --fid-folder"),
        "Heusel et al. 2017", INCEPTION, scope="set"),
    "fid_statistics": Metric("FID (statistics)", "", "lower", 2,
        _FID.format("the images of the file of --fid-statistics"),
        "Heusel et al. 2017", INCEPTION, scope="set"),
    # --- the image quality of a restored image alone ---
    "niqe": Metric("NIQE", "", "lower", 3,
        "pyiqa's niqe computes the value on the luma of YIQ, in blocks of 96 px, with the original parameters",
        "Mittal et al. 2013", "pyiqa and its parameters", "the image is smaller than 96 px", 96),
    "musiq": Metric("MUSIQ", "", "higher", 2,
        "pyiqa's musiq, trained on KonIQ-10k, computes the value at sides of 224 and 384 px",
        "Ke et al. 2021", "pyiqa and its weights", "the image is smaller than 32 px", 32),
    "maniqa": Metric("MANIQA", "", "higher", 4,
        "The value is the mean of pyiqa's maniqa, trained on KonIQ-10k, over 20 evenly spread crops of 224 px",
        "Yang et al. 2022", "pyiqa and its weights", "the image is smaller than 32 px", 32),
    "clipiqa": Metric("CLIP-IQA", "", "higher", 4,
        "pyiqa's clipiqa uses CLIP's RN50. The image keeps its own size. The value is the mean over five pairs of "
        "prompts",
        "Wang et al. 2023", "pyiqa and CLIP's RN50", "the image is smaller than 32 px", 32),
    "qalign": Metric("Q-Align", "", "higher", 4,
        "pyiqa's qalign rates the quality from 1 to 5 with the model q-future/one-align",
        "Wu et al. 2023", "pyiqa and q-future/one-align"),
    "ntire": Metric("NTIRE score", "", "higher", 4,
        "The value is CLIP-IQA + MANIQA + MUSIQ / 100 + max(0, (10 - NIQE) / 10) + Q-Align / 5 + max(0, (100 - FID) / "
        "100), over the means of all images. The FID in this sum is the metric FID (statistics). The challenge "
        "measures 450 images and compares them with statistics of FFHQ at 512 px (inception_FFHQ_512.pth). A score "
        "over other images or other statistics cannot be compared with the table of the challenge. Without any one "
        "of the six parts, there is no score",
        "NTIRE 2025 and 2026 on real-world face restoration", scope="set"),
    # --- identity ---
    "id_target": Metric("identity to target", "", "higher", 4,
        "The value is the cosine between the judge's embeddings of the restored image and of the target. The faces are "
        "cut out by the FFHQ template, without a detector",
        "Deng et al. 2019"),
    "same_person": Metric("counted as the person", "", "higher", 3,
        "The value is 1 if the identity to target reaches the judge's threshold for two faces of one person, "
        "otherwise 0",
        "ours"),
    "id_references": Metric("identity to references", "", "", 4,
        "The value is the mean cosine between the judge's embeddings of the restored image and of each reference of "
        "the person. ReFine calls the value IPS. Copying a reference raises the value, so read the value together with "
        "the identity to target",
        "ReFine (IPS)", nan_reason="there is no reference"),
    "id_input": Metric("identity to input", "", "", 4,
        "The value is the cosine between the judge's embeddings of the restored image and of the LQ image. A restorer "
        "that returns its input has the value 1, so read the value together with the quality. The NTIRE challenge on "
        "faces uses the same cosine with AdaFace as a gate",
        "NTIRE 2025 (gate), with the judge"),
    "id_input_adaface": Metric("identity to input (AdaFace)", "", "", 4,
        "The value is the cosine between AdaFace's embeddings (IR-50, MS1MV2) of the restored image and of the LQ "
        "image. The NTIRE challenge on faces uses this cosine as a gate. The challenge finds the faces with MTCNN. "
        "Likeness cuts them out by the FFHQ template, without a detector",
        "NTIRE 2025 and 2026 (gate)", "adaface_ir50_ms1mv2.ckpt"),
    "deg_published": Metric("Deg", "°", "lower", 2,
        "The value is the angle between ResNet-18 ArcFace features (resnet18_110) of the whole crops in gray at 128 "
        "px. Pairs below 1 degree are left out. All of this is as in VQFR's script. We have not seen which script "
        "HonestFace and OSDFace used",
        "VQFR's script", "resnet18_110.pth",
        "the angle is below 1 degree, and the published script leaves such pairs out"),
    "deg_adaface": Metric("Deg (AdaFace)", "°", "lower", 2,
        "The value is the angle between AdaFace's embeddings (IR-50, MS1MV2) of the restored image and of the target. "
        "The faces are cut out by the FFHQ template, without a detector. No pair is left out. The value cannot be "
        "compared with Deg",
        "Kim et al. 2022 (AdaFace); the angle is as in Deg", "adaface_ir50_ms1mv2.ckpt"),
    "deg_judge": Metric("Deg (judge)", "°", "lower", 2,
        "The value is the angle between the judge's embeddings of the restored image and of the target. No pair is "
        "left out. The value cannot be compared with the published Deg",
        "ours"),
    # --- landmarks ---
    "face_restored": Metric("faces found", "", "higher", 3,
        "The value is 1 if the judge's detector finds a face in the restored image, otherwise 0",
        "ours"),
    "face_target": Metric("faces found in targets", "", "", 3,
        "The value is 1 if the judge's detector finds a face in the target, otherwise 0",
        "ours"),
    "lmd": Metric("LMD (dlib's points)", "px", "lower", 3,
        "The value is the mean distance between a point in the restored image and the same point in the target. The "
        "unit is a pixel of a 512 px crop, and nothing is divided by the size of the face. VQFR's script computes the "
        "same mean in the same unit for 512 px images, but over the 98 points of an AWing network, and leaves out no "
        f"image. The points and the choice of images are ours: {_68}",
        "VQFR's script, on dlib's points", DLIB, _NO_FACE),
    "lmd_awing": Metric("LMD (AWing)", "px", "lower", 3,
        "The value is the mean distance between a point in the restored image and the same point in the target, in "
        "pixels of a 512 px crop. AWing's network finds the 98 points of WFLW at 256 px. Nothing is divided by the "
        "size of the face, and every image counts. All of this is as in VQFR's script",
        "VQFR's script", "alignment_WFLW_4HG as TorchScript or ONNX"),
    "l2_ld": Metric("L2-LD (ours)", "px", "lower", 3,
        "The value is the mean distance between the judge's five landmarks (eyes, nose, corners of the mouth), in "
        "pixels of a 512 px crop. Nothing is divided by the size of the face. We have seen HonestFace's figures, but "
        "neither its formula nor its points, so the formula and the points are ours",
        "ours, after HonestFace's table", nan_reason=_NO_FACE),
    "ald_eyes": Metric("ALD eyes (ours)", "px", "lower", 3,
        f"{_ALD} The points are the 22 points of brows and eyes. The distance is a Frobenius norm",
        _ASFF, DLIB, _NO_FACE),
    "ald_mouth": Metric("ALD mouth (ours)", "px", "lower", 3,
        f"{_ALD} The points are the 20 points of the mouth. The distance is a Frobenius norm",
        _ASFF, DLIB, _NO_FACE),
    "ald_eyes_mean": Metric("ALD eyes, mean (ours)", "px", "lower", 3,
        f"{_ALD} The points are the 22 points of brows and eyes. The distance is the mean over points",
        _ASFF, DLIB, _NO_FACE),
    "ald_mouth_mean": Metric("ALD mouth, mean (ours)", "px", "lower", 3,
        f"{_ALD} The points are the 20 points of the mouth. The distance is the mean over points",
        _ASFF, DLIB, _NO_FACE),
    "ald_eyes_affine": Metric("|A - I| eyes (ours)", "", "lower", 4,
        f"{_AFFINE} The points are the 22 points of brows and eyes. ALD does not measure the map A",
        "ours", DLIB, _NO_FACE),
    "ald_mouth_affine": Metric("|A - I| mouth (ours)", "", "lower", 4,
        f"{_AFFINE} The points are the 20 points of the mouth. ALD does not measure the map A",
        "ours", DLIB, _NO_FACE),
    # --- the LQ image ---
    "input_agreement": Metric("agreement with input", "dB", "", 2,
        "The restored image is blurred by Gaussians with standard deviations from 0 to 4.5% of the side. The value is "
        "the PSNR over RGB in 8 bits between the LQ image and the blurred image that is nearest to it. The blur stands "
        "for the unknown degradation. Noise and JPEG blocks of the LQ image limit the value, equally for all "
        "restorations of the image. A restorer that returns its input, or only blurs it, has a high value, so read the "
        "value together with the quality",
        "ours"),
    # --- copying ---
    "copy_ratio": Metric("copy ratio", "", "lower", 4,
        "Each reference r has the value max(0, s(x, r) - max(s(x, t), s(t, r))) / (1 - s(t, r)), and the largest of "
        "these values is taken. Only the first references count, up to the number of --max-references. "
        "Here s is the cosine between the judge's embeddings of the restored image x, the target t and a reference r. "
        "The value is 0 for the target and 1 for a reference",
        "ours", nan_reason="there is no reference that differs from the target"),
    "takeover": Metric("identity takeover", "", "lower", 3,
        "The value is 1 if the judge finds the restored image nearer to any wrong reference than to the target, "
        "otherwise 0. For a system that did not get the wrong references, the mean shows how often this happens by "
        "chance",
        "ours", nan_reason="there is no wrong reference", scope="wrong"),
}
# fmt: on
