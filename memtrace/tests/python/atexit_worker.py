"""A handler of the exit starts a worker that goes on: its stack is that of a process on its way out.

    atexit_worker.py [--seconds N]

It is done when the worker has ended.
"""

import argparse
import atexit
import os
import sys
import time

import protocol


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=8)
    options = parser.parse_args()
    protocol.quiet()
    data = [{"number": n, "name": str(n)} for n in range(60000)]
    protocol.ready()

    def start_worker():
        pid = os.fork()
        if pid == 0:
            for row in data:
                row["number"]
            time.sleep(options.seconds)
            os._exit(0)
        os.waitpid(pid, 0)
        protocol.done([], pids=[pid])
        os._exit(0)

    atexit.register(start_worker)
    sys.exit(0)


if __name__ == "__main__":
    main()
