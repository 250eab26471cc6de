"""Pure ASGI middleware, in the order of the list in `app.main.create_app`."""
