"""The photos that the user names: their files, consent and labels, and the faces that opted out."""
