"""Frozen sets of low-quality images: making, resuming, repeating and verifying them."""
