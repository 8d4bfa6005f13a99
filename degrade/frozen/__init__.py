"""Makes, resumes, repeats and verifies frozen sets of low-quality images."""
