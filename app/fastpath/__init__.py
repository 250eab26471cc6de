"""An optional shortcut past ASGI, for the server command alone: from the HTTP parser to the endpoint functions."""
