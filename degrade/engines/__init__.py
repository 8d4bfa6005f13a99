"""Contains three engines besides the exact engine: a differentiable engine in torch, BasicSR's code, and
albumentations.
"""
