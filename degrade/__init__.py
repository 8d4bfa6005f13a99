"""Clean face + preset + seed -> plausible bad face, replayable bit for bit."""
