"""Published lists of people, references and splits: read from their files, and applied to the faces of a dataset."""
