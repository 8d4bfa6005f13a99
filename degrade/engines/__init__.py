"""Contains three more engines that apply a θ: a differentiable engine in torch, BasicSR's code, and albumentations."""
