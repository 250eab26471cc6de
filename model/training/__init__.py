"""The training loop, its settings, its optimizers and resumable runs."""
