"""Reads and runs the ONNX files that `likeness export` writes. No file of this package imports torch."""
