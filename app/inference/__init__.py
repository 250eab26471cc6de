"""Model calls for many requests: engine, batcher, queue, admission and backends. Arrays in, arrays out; no HTTP."""
