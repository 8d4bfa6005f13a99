"""Defines ReFine's generator and discriminator in plain PyTorch. The two networks are built from the layers of
StyleGAN2.

The tensors have the names and shapes of the public repositories JianWang-CMU/RefineFIR and
rosinality/stylegan2-pytorch, so released weights load directly. `generator.py` is a good file to start reading.
"""
