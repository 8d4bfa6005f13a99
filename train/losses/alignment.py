"""Computes HonestFace's masked face alignment loss by a formula of ours.

The loss is named in a figure of HonestFace's authors. We have not seen the authors' formula.

The eyes, the nose and the mouth cover only a tenth of the image. If one of these parts is displaced a little, a mean
over all pixels therefore hardly changes. The face alignment loss compares image gradients in the regions of the eyes,
the nose and the mouth, and ignores the other pixels. A constant change of brightness adds nothing to the loss. The loss
is computed at several scales, because a coarse scale shows the direction of a displacement. All regions have the same
weight, whatever their size.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from train.losses.pixel import SCALES, gradients

# The radii (ours) of the regions, as fractions of the distance between the eyes.
EYE = 0.35
NOSE = 0.35
MOUTH = 0.25  # radius around the line between the corners of the mouth


def make_region_masks(landmarks: torch.Tensor, size: int) -> torch.Tensor:
    """Returns masks (B,4,size,size) of the two eyes, nose and mouth, from landmarks (B,5,2) in pixels.

    The landmarks are in ArcFace's order: eyes, nose, corners of the mouth. A mask is 1 up to half its radius (ours) and
    falls linearly to 0 at the radius. All masks are 0 if the eyes coincide or a landmark is NaN.
    """
    places = torch.arange(size, device=landmarks.device, dtype=landmarks.dtype)
    pixels = torch.stack(torch.meshgrid(places, places, indexing="xy"), -1)
    # Each landmark is (B,1,1,2). `nearest` (B,size,size,2) has, for each pixel, the nearest point of the line between
    # the two corners of the mouth.
    left, right, nose, one, other = landmarks[:, :, None, None].unbind(1)
    between = (right - left).norm(dim=-1)
    along = other - one
    share = ((pixels - one) * along).sum(-1) / along.square().sum(-1).clamp(min=1e-6)
    nearest = one + share.clamp(0, 1)[..., None] * along
    centres = ((left, EYE), (right, EYE), (nose, NOSE), (nearest, MOUTH))
    masks = [(2 - 2 * (pixels - centre).norm(dim=-1) / (radius * between)).clamp(0, 1) for centre, radius in centres]
    usable = (between > 0) & landmarks.isfinite().all(-1).all(-1)[:, None, None]
    return torch.where(usable[:, None], torch.stack(masks, 1), 0)


def face_alignment_loss(restored: torch.Tensor, target: torch.Tensor, landmarks: torch.Tensor) -> torch.Tensor:
    """Returns how much the image gradients of `restored` and `target` differ in the regions of the face, a scalar.

    The images are (B,3,S,S) in 0..1. An image gradient is a difference of neighbouring pixels. `landmarks` (B,5,2) are
    the landmarks of the target, in pixels: eyes, nose, corners of the mouth. The absolute differences of the gradients
    are averaged over each region, with the mask as weights. The sum of a mask counts as at least 1, so a region outside
    the image adds exactly 0. The result is the mean over scales, regions and images.
    """
    masks = make_region_masks(landmarks.to(restored.dtype), restored.shape[-1])
    total = restored.new_zeros(())
    for scale in range(SCALES):
        if scale:
            restored, target, masks = (F.avg_pool2d(picture, 2) for picture in (restored, target, masks))
        along_x, along_y = (masks[..., :, 1:] + masks[..., :, :-1]) / 2, (masks[..., 1:, :] + masks[..., :-1, :]) / 2
        for a, b, mask in zip(gradients(restored), gradients(target), (along_x, along_y), strict=True):
            apart = (a - b).abs().mean(1, keepdim=True)
            total = total + ((apart * mask).sum((2, 3)) / mask.sum((2, 3)).clamp(min=1)).mean() / (2 * SCALES)
    return total
