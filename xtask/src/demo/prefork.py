"""A small prefork server without a network, for `cargo xtask demo`.

The master builds about 60 MB of objects, then forks workers that only read them. Reading an object
changes its reference count and a collection writes into every object's header, so the workers copy
the pages that they shared with the master. Workers are replaced now and then, as real servers do.
"""

import gc
import os
import signal
import sys
import time

SECONDS = float(sys.argv[1])
WORKERS = 4
WORKER_LIFE = 1.6
RECORDS = 90_000


def build_catalogue():
    """Records as a web application keeps them: dictionaries of strings, numbers and lists."""
    return [
        {
            "id": number,
            "name": f"article number {number}",
            "price": number * 1.25 + 1000.0,
            "tags": [f"tag {number % 97}/{number}", f"colour {number}"],
        }
        for number in range(RECORDS)
    ]


def sum_prices(catalogue, part):
    """Reads a number of each record: its reference count is what is written."""
    return sum(catalogue[number]["price"] for number in part)


def search_names(catalogue, part, text):
    """Reads a string of each record."""
    return [number for number in part if catalogue[number]["name"].endswith(text)]


def collect_tags(catalogue, part):
    """Reads lists and what is in them."""
    return {tag for number in part for tag in catalogue[number]["tags"]}


def count_views(catalogue, part):
    """What a program writes on purpose."""
    for number in part:
        catalogue[number]["views"] = number % 10


def handle_request(catalogue, request):
    """One request works on one part of the catalogue."""
    size = len(catalogue) // 40
    start = (request * 7919) % (len(catalogue) - size)
    part = range(start, start + size)
    work = request % 8
    if work < 3:
        sum_prices(catalogue, part)
    elif work < 5:
        search_names(catalogue, part, "7")
    elif work < 7:
        collect_tags(catalogue, part)
    else:
        count_views(catalogue, part[: size // 8])


def serve(catalogue, worker, master):
    """Handles requests until it is time for a fresh worker, or the master is gone."""
    end = time.monotonic() + WORKER_LIFE + 0.3 * worker
    request = worker
    while time.monotonic() < end and os.getppid() == master:
        handle_request(catalogue, request)
        request += WORKERS
        if worker == 0 and request % 40 == 0:
            gc.collect()
        time.sleep(0.02)


def main():
    catalogue = build_catalogue()
    master = os.getpid()
    end = time.monotonic() + SECONDS
    workers = {}
    # Default action: the workers see that their parent is gone.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    print(master, flush=True)
    while time.monotonic() < end:
        for worker in set(range(WORKERS)) - set(workers.values()):
            pid = os.fork()
            if pid == 0:
                serve(catalogue, worker, master)
                os._exit(0)
            workers[pid] = worker
        pid, _ = os.wait()
        workers.pop(pid, None)
    for _ in workers:
        os.wait()


main()
