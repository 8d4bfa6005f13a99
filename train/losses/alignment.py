"""HonestFace's masked face alignment loss, by a formula of ours: theirs was never published.

The eyes, the nose and the mouth carry the identity and cover a tenth of the picture, so a mean over all pixels hardly
notices when one of them sits a little off. Here the gradients of the restored face and of the target are compared in
those regions alone. Gradients, since a contour that has moved costs where it is and where it should be, whereas a
change of brightness costs nothing; at several scales, since a fine one says only that a contour is off and a coarse one
also says to which side. Every region counts the same however small it is.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from train.losses.pixel import SCALES, gradients

# radii, as shares of the distance between the eyes (ours)
EYE = 0.35
NOSE = 0.35
MOUTH = 0.25  # around the line from corner to corner


def regions(landmarks: torch.Tensor, size: int) -> torch.Tensor:
    """(B,5,2) landmarks in pixels, in ArcFace's order -> (B,4,size,size) masks of two eyes, nose and mouth.

    A mask is 1 up to half its radius and falls linearly to 0 at the radius (ours). All are 0 where the eyes coincide
    or a landmark is not a number.
    """
    places = torch.arange(size, device=landmarks.device, dtype=landmarks.dtype)
    pixels = torch.stack(torch.meshgrid(places, places, indexing="xy"), -1)
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
    """Mean absolute difference of the gradients of (B,3,S,S) images in 0..1 within the regions of the target's face.

    `landmarks` (B,5,2) are the target's, in pixels: eyes, nose, corners of the mouth. Each region is averaged over its
    mask (an area below one pixel counts as one), then scales, regions and batch are averaged. A region that lies
    outside the picture adds exactly 0.
    """
    masks = regions(landmarks.to(restored.dtype), restored.shape[-1])
    total = restored.new_zeros(())
    for scale in range(SCALES):
        if scale:
            restored, target, masks = (F.avg_pool2d(picture, 2) for picture in (restored, target, masks))
        along_x, along_y = (masks[..., :, 1:] + masks[..., :, :-1]) / 2, (masks[..., 1:, :] + masks[..., :-1, :]) / 2
        for a, b, mask in zip(gradients(restored), gradients(target), (along_x, along_y), strict=True):
            apart = (a - b).abs().mean(1, keepdim=True)
            total = total + ((apart * mask).sum((2, 3)) / mask.sum((2, 3)).clamp(min=1)).mean() / (2 * SCALES)
    return total
