"""From photos to faces: detect, measure, screen, crop, embed."""
