"""A webhook receiver as people write them after RingCentral's samples: it knows nothing of rc-push.

    RECEIVER_TOKEN=… RECEIVER_FILE=events.jsonl python flask_receiver.py [PORT]

Prints its port once it listens. With RECEIVER_ECHO=no it forgets to echo the validation token.
"""

import json
import os
import sys

from flask import Flask, Response, request
from werkzeug.serving import make_server

app = Flask(__name__)
EXPECTED = os.environ["RECEIVER_TOKEN"]
FILE = os.environ["RECEIVER_FILE"]


@app.post("/webhook")
def webhook() -> Response:
    validation_token = request.headers.get("Validation-Token")
    if validation_token is not None and os.environ.get("RECEIVER_ECHO") != "no":
        return Response(status=200, headers={"Validation-Token": validation_token})
    if request.headers.get("Verification-Token") != EXPECTED:
        return Response(f"wrong verification token {request.headers.get('Verification-Token')}", status=401)
    event = request.json
    with open(FILE, "a", encoding="utf-8") as file:  # noqa: PTH123 - as people write it
        file.write(json.dumps(event) + "\n")
    return Response(status=200)


if __name__ == "__main__":
    server = make_server("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0, app, threaded=True)
    print(server.port, flush=True)  # noqa: T201 - for whoever started it
    server.serve_forever()
