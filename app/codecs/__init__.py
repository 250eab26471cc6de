"""Conversion between bytes and arrays, by media type. A leaf package: it imports nothing of `app` outside itself.

Requests: `decode.decode` reads a body through `json`, `npy`, `images` or `multipart`, as an `InputSpec` of `spec`
describes it. Responses: `negotiation.choose` picks a format, `encode.encode` writes it, with `npz` and `images`. Every
module raises subclasses of `errors.CodecError`.
"""
