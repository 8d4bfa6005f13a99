"""Computes the timesteps of a restoration, and the clean and the noisy latents at these timesteps."""
