"""An optional shortcut past ASGI: small requests go from the HTTP parser straight to the endpoint functions.

ASGI messages, middleware and FastAPI's dependency injection cost more than a small request itself. Only the server
command imports this package; requests that are not plain take the standard path.
"""
