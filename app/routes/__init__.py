"""The calls of the interface; each only translates HTTP and delegates to the engine."""
