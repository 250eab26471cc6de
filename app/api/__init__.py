"""The interface that HTTP clients call: routers, schemas, dependencies, errors as problem+json."""
