"""Contains other engines for the same θ: a differentiable engine in torch, BasicSR's code, and albumentations."""
