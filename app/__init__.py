"""The service: a trained variational autoencoder behind HTTP, and its command line."""

from importlib.metadata import version

__version__ = version("vae-server")
