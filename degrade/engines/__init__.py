"""Other engines for the same θ: a differentiable engine in torch, BasicSR's code, and an albumentations transform."""
