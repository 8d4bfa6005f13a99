"""Restore the faces in photos with a trained restorer: read, restore, paste back, write, log."""
