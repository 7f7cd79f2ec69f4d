"""A small web application with preloaded data, as it is loaded before the workers are forked.

A request names a segment of the data, which is read; the answer says who read it, and on how many
pages it stands. No page belongs to two segments.
"""

import json
import os

import graph
import protocol

SEGMENTS = 60


def build():
    segments = [graph.words(1100, "segment%d" % number) for number in range(SEGMENTS)]
    seen = set()
    pages = []
    for segment in segments:
        own = protocol.pages_of(segment) - seen
        seen |= own
        pages.append(len(own))
    return segments, pages


DATA, PAGES = build()


def answer(number):
    """Reads a segment."""
    count = 0
    for item in DATA[number]:  # answer
        count += 1
    return count


def respond(path):
    """The answer to a request, as JSON."""
    number = int(path.strip("/")) % SEGMENTS
    answer(number)
    return json.dumps({"pid": os.getpid(), "segment": number, "pages": PAGES[number]}).encode()


def application(environ, start_response):
    body = respond(environ["PATH_INFO"])
    start_response(
        "200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    )
    return [body]
