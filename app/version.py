"""The version of the service, from its installed metadata."""

from importlib.metadata import version

VERSION = version("vae-server")
