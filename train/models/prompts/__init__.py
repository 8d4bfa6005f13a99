"""Holds the networks that make the prompt of the UNet: the embedders of OSDFace and HonestFace."""
