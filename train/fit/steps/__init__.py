"""Takes one step of the training: restores a batch, and computes the losses and the gradients."""
