"""Children read preloaded objects, at known depths of calls, and say how long that took.

    storm.py depths --pages N --depths D...   a child for each depth reads one object on each of N pages
    storm.py walk --pages N --children C  children that are there already iterate over everything

Driven by lines: says that it is ready, waits, says what it did, waits and ends.
"""

import argparse
import gc
import json
import os
import resource
import sys
import time

PAGE = os.sysconf("SC_PAGE_SIZE")


def say(message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def build(pages):
    """Strings on this many pages, and one string on each."""
    items = []
    first = {}
    number = 0
    while len(first) < pages:
        for _ in range(10000):
            item = "item-%012d-%s" % (number, "x" * 40)
            number += 1
            first.setdefault(id(item) // PAGE, item)
            items.append(item)
    return items, list(first.values())[:pages]


def walk_list(items):
    for item in items:
        pass


def descend(depth, items):
    """Calls itself until this many frames of Python are on the stack, then reads."""
    if depth <= 1:
        walk_list(items)
    else:
        descend(depth - 1, items)


def depth_here():
    depth = 0
    frame = sys._getframe(1)
    while frame is not None:
        depth += 1
        frame = frame.f_back
    return depth


def measure(work, *arguments):
    """Nanoseconds and page faults of a piece of work."""
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    begin = time.perf_counter_ns()
    work(*arguments)
    ns = time.perf_counter_ns() - begin
    return ns, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults


def start(work, *arguments):
    """Forks a child that works when it is told to, once, and ends."""
    gate, order = os.pipe()
    answer, voice = os.pipe()
    pid = os.fork()
    if pid:
        os.close(gate)
        os.close(voice)
        return pid, order, answer
    os.close(order)
    os.close(answer)
    if os.read(gate, 1):
        ns, faults = measure(work, *arguments)
        os.write(voice, json.dumps({"ns": ns, "faults": faults}).encode())
    os._exit(0)


def finish(child):
    pid, order, answer = child
    os.write(order, b"g")
    said = os.read(answer, 4096)
    os.close(order)
    os.close(answer)
    os.waitpid(pid, 0)
    return json.loads(said)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=["depths", "walk"])
    parser.add_argument("--pages", type=int, required=True)
    parser.add_argument("--children", type=int, default=4)
    parser.add_argument("--depths", type=int, nargs="*", default=[])
    options = parser.parse_args()
    gc.disable()
    items, targets = build(options.pages)
    # Frames below the first call of `descend`, with those of `measure` and `start`; above it
    # is `walk_list`.
    below = depth_here() + 2
    early = []
    if options.way == "walk":
        early = [start(descend, 8, items) for _ in range(options.children)]
    say({"ready": {"pid": os.getpid()}})
    if not sys.stdin.readline():
        return
    forks = []
    for child in early:
        forks.append(dict(finish(child), pages=len(targets)))
    for depth in options.depths:
        child = start(descend, depth - below - 1, targets)
        forks.append(dict(finish(child), pages=len(targets), depth=depth))
    say({"done": {"forks": forks, "copied": sum(fork["pages"] for fork in forks)}})
    sys.stdin.readline()


if __name__ == "__main__":
    main()
