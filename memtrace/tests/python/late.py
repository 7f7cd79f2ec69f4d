"""A child that has read everything before memtrace comes, and does nothing after.

    late.py [--fresh]

--fresh: nothing is read, and the child makes data of its own while memtrace looks.
"""

import argparse

import graph
import protocol

KEPT = []


def read(data):
    for item in data:
        pass


def make():
    KEPT.extend([{"number": n} for n in range(100000)])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--fresh", action="store_true")
    options = parser.parse_args()
    protocol.quiet()
    data = graph.flat(40)
    child = protocol.Child(make if options.fresh else lambda: read(data))
    if not options.fresh:
        child.work()
    protocol.ready()
    if options.fresh:
        child.work()
    protocol.done([child])


if __name__ == "__main__":
    main()
