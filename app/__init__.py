"""The service: HTTP around `model`, and the command line."""
