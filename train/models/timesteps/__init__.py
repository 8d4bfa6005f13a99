"""Computes the timesteps of a restoration, the clean latent that a step predicts, and the input of the next step."""
