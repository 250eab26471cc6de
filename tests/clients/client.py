"""A client in Python: python client.py LIBRARY ADDRESS FOLDER, by requests or httpx."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

#: Name of the argument for bytes and for what yields them.
CONTENT = {"requests": "data", "httpx": "content"}
TYPES = {
    "picture": ("image/png", "picture.png"),
    "json": ("application/json", "body.json"),
    "npy": ("application/x-npy", "body.npy"),
}


def main(name: str, address: str, folder: Path) -> None:
    """Post every body in every way, and print the answers as JSON."""
    library, content, answers = importlib.import_module(name), CONTENT[name], {}

    def post(**request: Any) -> Any:
        response = library.post(f"{address}/encode", timeout=60, **request)
        assert response.status_code == 200, response.text
        return response.json()

    for kind, (media_type, file) in TYPES.items():
        body, headers = (folder / file).read_bytes(), {"Content-Type": media_type}
        answers[kind] = post(**{content: body}, headers=headers)
        # An iterator has no length, so it is sent in chunks.
        answers[f"{kind} in chunks"] = post(**{content: iter([body[:10], body[10:]])}, headers=headers)
    picture = (folder / "picture.png").read_bytes()
    answers["multipart"] = post(files={"inputs": ("boot.png", picture, "image/png")})
    answers["json of the library"] = post(json=json.loads((folder / "body.json").read_text()))
    print(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
