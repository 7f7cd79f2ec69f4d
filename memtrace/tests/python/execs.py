"""Becomes Python again and again: each time a child replaces its program by another Python.

    execs.py [--programs N]

Half of the programs run after each order. Each forks a child that touches what was loaded.
"""

import argparse
import json
import os
import sys
import time

import graph
import protocol

OBJECTS = 4000


def touch_again(items):
    for item in items:  # touch_again
        pass


def program():
    protocol.quiet()
    items = graph.words(OBJECTS)
    pages = len(protocol.pages_of(items))
    # Long enough that this interpreter can be known before it forks.
    time.sleep(0.15)
    pid = os.fork()
    if pid == 0:
        touch_again(items)
        os._exit(0)
    os.waitpid(pid, 0)
    protocol.say({"pid": os.getpid(), "child": pid, "pages": pages})


def run_one():
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writer, 1)
        os.close(reader)
        os.execv(sys.executable, [sys.executable, "-B", "-E", "-s", __file__, "--program"])
    os.close(writer)
    with os.fdopen(reader) as said:
        text = said.read()
    if os.waitpid(pid, 0)[1] != 0:
        raise SystemExit("a program failed")
    return json.loads(text)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--programs", type=int, default=20)
    parser.add_argument("--program", action="store_true")
    options = parser.parse_args()
    if options.program:
        program()
        return
    protocol.ready()
    site = protocol.site(touch_again, "touch_again")
    for half in range(2):
        programs = [run_one() for _ in range(options.programs // 2)]
        protocol.done([], programs=programs, site=site)


if __name__ == "__main__":
    main()
