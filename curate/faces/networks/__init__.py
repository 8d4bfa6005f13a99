"""Runs the ONNX networks of the face models on the processor or on another device."""
