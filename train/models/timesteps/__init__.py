"""Computes the timesteps of a restoration, and the latents between the timesteps."""
