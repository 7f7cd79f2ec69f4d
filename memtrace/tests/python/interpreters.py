"""More than one interpreter, or more than one stack, in one thread.

    interpreters.py subinterpreters|greenlets
"""

import argparse
import os

import protocol

PAGES = 200

# Runs in an interpreter of its own, which shares no objects with the others: it gets an address.
INSIDE = """
import ctypes
import sys

# Up to 3.11 a thread that has given the GIL up cannot be told to be in this interpreter.
library = ctypes.PyDLL if sys.version_info < (3, 12) else ctypes.CDLL
memset = library(None).memset
memset.argtypes = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
memset.restype = None

def write_inside(address):
    for page in range(%(pages)d):
        memset(address + page * %(size)d, 1, 1)

write_inside(%(address)d)
"""


def buffer():
    """A preloaded buffer, and where its bytes are."""
    try:
        import ctypes
    except ImportError:
        protocol.unavailable("this interpreter has no ctypes")
    made = bytearray((PAGES + 1) * protocol.PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(made))
    # From one page's beginning on.
    return made, (address // protocol.PAGE + 1) * protocol.PAGE


def runners():
    """Ways to run source in an interpreter of its own, of those that this version may have."""
    try:
        from concurrent import interpreters

        yield lambda source: interpreters.create().exec(source)
    except ImportError:
        pass
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            module = __import__(name)
        except ImportError:
            continue
        # With the GIL of its own where that works, else with the main one's.
        for options in ({}, {"isolated": False}):

            def run(source, module=module, options=options):
                failed = module.run_string(module.create(**options), source)
                if failed is not None:
                    raise RuntimeError(failed)

            yield run


def works(run):
    """Whether ctypes works in there. Tried in a child: what is left would be in the way."""
    pid = os.fork()
    if pid == 0:
        # Its complaints are not for the reader.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            run("import ctypes")
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


def subinterpreters():
    made, address = buffer()
    run = next((run for run in runners() if works(run)), None)
    if run is None:
        protocol.unavailable("this interpreter has no subinterpreters in which ctypes works")
    source = INSIDE % {"pages": PAGES, "size": protocol.PAGE, "address": address}
    sites = {
        "write_inside": {
            "function": "write_inside",
            "file": "<string>",
            "line": 13,
            "pages": PAGES,
        }
    }
    finish(lambda: run(source), sites, made)


def write_in_greenlet(made, switch):
    for page in range(PAGES):
        made[page * protocol.PAGE + protocol.PAGE // 2] = 1  # write_in_greenlet
        if page % 50 == 0:
            switch()


def greenlets():
    try:
        import greenlet
    except ImportError:
        protocol.unavailable("greenlet is not installed for this interpreter (cargo xtask pythons)")
    made, _address = buffer()

    def work():
        main = greenlet.getcurrent()
        other = greenlet.greenlet(write_in_greenlet)
        other.switch(made, main.switch)
        while not other.dead:
            other.switch()

    site = dict(protocol.site(write_in_greenlet, "write_in_greenlet"), pages=PAGES)
    finish(work, {"write_in_greenlet": site}, made)


def finish(work, sites, made):
    protocol.zero_frame()
    protocol.ready()
    child = protocol.Child(lambda: work() and None)
    child.work()
    protocol.done([child], sites=sites, buffer_bytes=len(made))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=["subinterpreters", "greenlets"])
    options = parser.parse_args()
    protocol.quiet()
    {"subinterpreters": subinterpreters, "greenlets": greenlets}[options.way]()


if __name__ == "__main__":
    main()
