"""The restorer, one model made of parts: latent, UNet, reference encoder, refinement; and the recognizer of the losses."""
