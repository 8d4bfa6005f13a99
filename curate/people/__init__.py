"""The stages after the embeddings: they make people, splits and reference pairs."""
