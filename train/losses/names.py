"""Lists the names of all losses. Losses that need the same network are in one list."""

ADVERSARIAL = "gan"
BY_MODEL = ("reconstruction", "codebook", "association")
OF_DICTIONARY = (*BY_MODEL, "reconstruction_lpips")  # only recipe vre has these losses
THROUGH_RECOGNIZER = ("identity", "identity_maps", "reference_identity")
THROUGH_LPIPS = ("lpips", "spatial_min", "cycle", "reconstruction_lpips")
THROUGH_DISTS = ("ea_dists",)
THROUGH_BACKBONE = THROUGH_LPIPS + THROUGH_DISTS
OF_DETAIL = ("detail", "shown_detail")
OF_PIXELS = ("pixel", "edge", *OF_DETAIL, "mse")
OF_PICTURES = (*OF_PIXELS, "ms_ssim", "face_alignment")
LOSSES = OF_PICTURES + THROUGH_RECOGNIZER + THROUGH_BACKBONE + (ADVERSARIAL,) + BY_MODEL
