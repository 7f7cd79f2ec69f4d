"""A web application whose workers grow with each request, until the server replaces them."""

import os

KEPT = []


def application(environ, start_response):
    KEPT.append(bytearray(b"x") * (3 << 20))
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
