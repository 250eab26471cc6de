"""Bytes <-> arrays, keyed by media type; pure functions that know no server and no model.

`rows.py` reads the body of a request into rows, by way of `numbers.py` (JSON, npy), `pictures.py` (images) and
`multipart.py`; `answers.py` writes answers; `negotiation.py` chooses between their forms.
"""
