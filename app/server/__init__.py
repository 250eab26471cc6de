"""The server process: uvicorn, workers, signals, limits of connections."""
