"""Writes a restorer as ONNX files, which `likeness restore --run onnx:FOLDER` runs without torch."""
