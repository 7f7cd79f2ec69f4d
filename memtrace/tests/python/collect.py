"""A child runs the garbage collector over preloaded data.

    collect.py [--freeze] [--scale N]

--freeze moves everything out of the collector's sight before the fork.
"""

import argparse
import gc

import graph
import protocol


def collect():
    gc.collect()  # collect


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--freeze", action="store_true")
    parser.add_argument("--scale", type=int, default=25000)
    options = parser.parse_args()
    protocol.quiet()
    data = graph.nested(options.scale)
    gc.collect()
    if options.freeze:
        gc.freeze()
    protocol.zero_frame()
    tracked = [each for each in data if gc.is_tracked(each)]
    pages = len(protocol.pages_of(tracked))
    del tracked
    protocol.ready()
    child = protocol.Child(collect, tracked_pages=pages)
    child.work()
    protocol.done([child], site=protocol.site(collect, "collect"))


if __name__ == "__main__":
    main()
