"""Children that do nothing and end in the ordinary way, which destroys every object.

    exits.py [--children N]
"""

import argparse
import os
import sys

import protocol


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--children", type=int, default=3)
    options = parser.parse_args()
    protocol.quiet()
    data = [{"number": n, "name": str(n)} for n in range(60000)]
    protocol.ready()
    pids = []
    for _ in range(options.children):
        pid = os.fork()
        if pid == 0:
            sys.exit(0)
        pids.append(pid)
        os.waitpid(pid, 0)
    assert data
    protocol.done([], pids=pids)


if __name__ == "__main__":
    main()
