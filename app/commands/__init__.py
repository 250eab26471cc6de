"""The commands of `vae`, one module each."""
