"""A client in Python: python client.py LIBRARY ADDRESS FOLDER, by requests or httpx."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

LIBRARY, ADDRESS, FOLDER = sys.argv[1], sys.argv[2], Path(sys.argv[3])
#: Name of the argument for bytes and for what yields them.
CONTENT = {"requests": "data", "httpx": "content"}[LIBRARY]
TYPES = {
    "picture": ("image/png", "picture.png"),
    "json": ("application/json", "body.json"),
    "npy": ("application/x-npy", "body.npy"),
}
library = importlib.import_module(LIBRARY)


def post(**request: Any) -> Any:
    response = library.post(f"{ADDRESS}/encode", timeout=60, **request)
    assert response.status_code == 200, response.text
    return response.json()


answers = {}
for name, (media_type, file) in TYPES.items():
    body, headers = (FOLDER / file).read_bytes(), {"Content-Type": media_type}
    answers[name] = post(**{CONTENT: body}, headers=headers)
    # An iterator has no length, so it is sent in chunks.
    answers[f"{name} in chunks"] = post(**{CONTENT: iter([body[:10], body[10:]])}, headers=headers)
picture = (FOLDER / "picture.png").read_bytes()
answers["multipart"] = post(files={"inputs": ("boot.png", picture, "image/png")})
answers["json of the library"] = post(json=json.loads((FOLDER / "body.json").read_text()))
print(json.dumps(answers))
