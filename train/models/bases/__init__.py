"""The networks that restore: a tiny UNet from scratch, and Stable Diffusion with adapters."""
