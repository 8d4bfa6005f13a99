"""Shows the result of an evaluation: as a page, as tables of text and as a curve."""
