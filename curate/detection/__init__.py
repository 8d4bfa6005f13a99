"""Finds the faces in photos: detects, measures, screens, crops and embeds them."""
