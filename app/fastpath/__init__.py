"""An optional shortcut past ASGI that calls the same endpoint functions."""
