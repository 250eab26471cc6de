"""The engine, the batcher and the queue: arrays in, arrays out; knows no HTTP."""
