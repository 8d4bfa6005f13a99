"""The stages from faces with embeddings to people, splits and reference pairs."""
