"""Training: its configuration, data splits, loop and optimizers, and runs that resume."""
