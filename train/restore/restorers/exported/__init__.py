"""Reads and runs the ONNX files that `likeness export` writes. The files of this package do not import torch."""
