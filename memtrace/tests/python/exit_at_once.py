"""Children that touch preloaded objects and are gone at once.

    exit_at_once.py [--children N]
"""

import argparse
import os

import graph
import protocol


def touch_and_go(items):
    for item in items:  # touch_and_go
        pass
    os._exit(0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--children", type=int, default=20)
    options = parser.parse_args()
    protocol.quiet()
    items = graph.words(8000)
    pages = len(protocol.pages_of(items))
    protocol.ready()
    pids = []
    for _ in range(options.children):
        pid = os.fork()
        if pid == 0:
            touch_and_go(items)
        pids.append(pid)
        os.waitpid(pid, 0)
    site = protocol.site(touch_and_go, "touch_and_go")
    protocol.done([], pids=pids, pages_each=pages, site=site)


if __name__ == "__main__":
    main()
