"""Threads: who wrote is the thread that wrote, whoever has the GIL.

    threads.py without_gil|forked|pool

without_gil: one thread fills preloaded memory in C code that has released the GIL, another one
runs Python code all the time. forked: a thread that is not the main one forks, and the child goes
on in it. pool: several threads iterate over preloaded data of their own at once.
"""

import argparse
import os
import tempfile
import threading

import graph
import protocol

SIZE = 8 << 20
STEP = 64 << 10
POOL = 4


def spin(stop):
    """Holds the GIL whenever it can."""
    count = 0
    while not stop.is_set():
        count += 1
    return count


def fill_without_gil(address):
    import ctypes

    for offset in range(0, SIZE, STEP):
        ctypes.memset(address + offset, 1, STEP)  # fill_without_gil


def read_without_gil(file, view):
    for offset in range(0, SIZE, STEP):
        file.readinto(view[offset : offset + STEP])  # read_without_gil


def beside(stop, work, *arguments):
    """Runs `work` in a thread while another one spins."""
    spinner = threading.Thread(target=spin, args=(stop,))
    worker = threading.Thread(target=work, args=arguments)
    spinner.start()
    worker.start()
    worker.join()
    stop.set()
    spinner.join()
    stop.clear()


def without_gil():
    try:
        import ctypes
    except ImportError:
        protocol.unavailable("this interpreter has no ctypes")
    filled = bytearray(SIZE)
    received = bytearray(SIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(filled))
    # Loaded, and used once, before the fork.
    ctypes.memset(address, 0, 1)
    file = tempfile.TemporaryFile(buffering=0)
    file.write(b"x" * SIZE)
    file.seek(0)
    stop = threading.Event()

    def work():
        beside(stop, fill_without_gil, address)
        beside(stop, read_without_gil, file, memoryview(received))

    pages = SIZE // protocol.PAGE
    truth = {
        "fill_without_gil": dict(
            protocol.site(fill_without_gil, "fill_without_gil"), pages=pages, cause="data"
        ),
        "read_without_gil": dict(
            protocol.site(read_without_gil, "read_without_gil"), pages=pages, cause="kernel"
        ),
    }
    finish(lambda: protocol.Child(work), sites=truth, never=["spin"])


def walk_in_thread(items):
    for item in items:  # walk_in_thread
        pass


def forked():
    items = graph.words(60000)
    made = []

    def work():
        walk_in_thread(items)

    def fork():
        made.append(protocol.Child(work))

    def make():
        forker = threading.Thread(target=fork)
        forker.start()
        forker.join()
        return made[0]

    truth = dict(
        protocol.site(walk_in_thread, "walk_in_thread"),
        pages=len(protocol.pages_of(items)),
        cause="refcount",
    )
    finish(make, sites={"walk_in_thread": truth}, never=[])


def pool():
    parts = [graph.words(20000, "part%d" % number) for number in range(POOL)]
    # A function of its own for each thread, which is named where it was made.
    walkers = []
    truth = {}
    seen = set()
    for number, part in enumerate(parts):
        space = {}
        source = "def walk_part_%d(items):\n    for item in items: pass\n" % number
        exec(compile(source, "part_%d.py" % number, "exec"), space)
        walkers.append(space["walk_part_%d" % number])
        pages = protocol.pages_of(part) - seen
        seen |= pages
        truth["walk_part_%d" % number] = {
            "function": "walk_part_%d" % number,
            "file": "part_%d.py" % number,
            "line": 2,
            "pages": len(pages),
            "cause": "refcount",
        }

    def work():
        running = [
            threading.Thread(target=walker, args=(part,)) for walker, part in zip(walkers, parts)
        ]
        for each in running:
            each.start()
        for each in running:
            each.join()

    finish(lambda: protocol.Child(work), sites=truth, never=[])


def finish(make, **truth):
    protocol.zero_frame()
    protocol.ready()
    child = make()
    child.work()
    protocol.done([child], **truth)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=["without_gil", "forked", "pool"])
    options = parser.parse_args()
    protocol.quiet()
    {"without_gil": without_gil, "forked": forked, "pool": pool}[options.way]()


if __name__ == "__main__":
    main()
