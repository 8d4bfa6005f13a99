"""Contains the exact engine: blur, resizing, noise, JPEG and colour on float32 RGB images. `apply` runs a whole θ."""
