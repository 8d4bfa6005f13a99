"""What is stored of an aligned face to tell whether two faces show the same picture."""
