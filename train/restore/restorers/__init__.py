"""Loads and runs restorers: those of torch, and those of ONNX files, which need no torch."""
