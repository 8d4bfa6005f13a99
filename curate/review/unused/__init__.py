"""The page of the files, photos and faces that are not used."""
