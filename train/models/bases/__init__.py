"""Holds the networks that restore faces: a tiny UNet without pretrained weights, and Stable Diffusion with adapters."""
