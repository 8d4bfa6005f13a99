"""Loads and runs restorers, with torch or from ONNX files without torch."""
