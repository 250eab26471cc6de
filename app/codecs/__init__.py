"""Conversion between bytes and arrays, by media type. A leaf package: it imports nothing of `app` outside itself.

`decode.decode` reads the rows of a request, as an `InputSpec` describes them. `negotiation.choose` picks the format of
a response, `encode.encode` writes it. Every module raises subclasses of `errors.CodecError`.
"""
