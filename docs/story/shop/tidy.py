"""A middleware that somebody added when memory grew."""

import gc

EVERY = 50


class Tidy:
    def __init__(self, respond):
        self.respond = respond
        self.requests = 0

    def __call__(self, request):
        self.requests += 1
        if self.requests % EVERY == 0:
            gc.collect()
        return self.respond(request)
