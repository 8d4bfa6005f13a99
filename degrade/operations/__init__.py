"""The exact engine: blur, resizing, noise, JPEG and colour on float32 RGB images, and `apply`, which runs a θ."""
