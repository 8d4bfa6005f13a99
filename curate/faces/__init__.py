"""Face models: find faces and landmarks, compute embeddings, align, measure. They import no other package of ours."""
