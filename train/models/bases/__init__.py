"""Holds the networks that restore faces: a tiny UNet, Stable Diffusion with adapters, and ReFine's generator."""
