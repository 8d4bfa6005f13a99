"""The way of a restored face back into its photo: the mask, the samples of the file, the file itself."""
