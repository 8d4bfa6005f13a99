"""Finds, aligns, measures and embeds faces with face models. This package imports no other package of Likeness."""
