"""The ceiling of HTTP in Python: reads the body, answers fixed bytes, does nothing else. `uvicorn bare:app`."""

import os
from pathlib import Path

ANSWER = Path(os.environ["ANSWER"]).read_bytes()
HEAD = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-length", str(len(ANSWER)).encode()), (b"content-type", b"application/json")],
}


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    while (await receive()).get("more_body"):
        pass
    await send(HEAD)
    await send({"type": "http.response.body", "body": ANSWER})
