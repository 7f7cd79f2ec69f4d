"""Workers that copy in a way that memtrace has a remedy for, and the same with the remedy.

    remedies.py WAY [--remedied] [--workers N]

What a report promises of the first is what the second must save.
"""

import argparse
import array
import gc
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import sysconfig
import tempfile
import time

import graph
import protocol

# How long workers live that have a start and then a life.
LIFE = 3.0


class GcFreeze:
    """Each worker runs the collector over what was loaded."""

    def __init__(self, remedied):
        gc.collect()
        self.data = graph.nested(15000)
        gc.collect()
        if remedied:
            gc.freeze()

    def work(self):
        gc.collect()

    def master(self):
        """The master collects, too, while its workers have what it had."""
        gc.collect()


def total(numbers):
    count = 0
    for number in numbers:
        count += number > 0
    return count


class DataStructures:
    """Each worker reads many numbers, which are objects or in one array."""

    def __init__(self, remedied):
        numbers = range(1000, 401000)
        self.numbers = array.array("q", numbers) if remedied else list(numbers)

    def work(self):
        total(self.numbers)


class Exit:
    """Each worker ends, and destroys its objects or does not."""

    def __init__(self, remedied):
        self.remedied = remedied
        self.data = [{"number": n, "name": str(n)} for n in range(60000)]

    def work(self):
        if self.remedied:
            os._exit(0)
        sys.exit(0)


class WarmUp:
    """The first request fills a table, in each worker or once before the fork."""

    def __init__(self, remedied):
        self.table = [None] * (1 << 20)
        self.is_warm = False
        if remedied:
            self.request()

    def request(self):
        if not self.is_warm:
            fill(self.table)
            self.is_warm = True

    def work(self):
        self.request()
        time.sleep(LIFE)


def fill(table):
    for index in range(0, len(table), 8):
        table[index] = True


class Extension:
    """A module in C reads many texts, and counts references to them or borrows them."""

    def __init__(self, remedied):
        self.texts = ["text %d" % n for n in range(200000)]
        self.folder = tempfile.TemporaryDirectory()
        options = ["-DREMEDIED"] if remedied else []
        self.reader = built("reader", self.folder.name, options)

    def work(self):
        self.reader.longest(self.texts)


def built(name, folder, options):
    """An extension module, from its source beside this file."""
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".c")
    library = os.path.join(folder, name + ".so")
    command = ["gcc", "-O2", "-shared", "-fPIC", source, "-o", library]
    command += ["-I", sysconfig.get_paths()["include"]]
    subprocess.run(command + options, check=True)
    loader = importlib.machinery.ExtensionFileLoader(name, library)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


class Immortal:
    """Each worker uses what is immortal in newer versions, in functions of its own."""

    def __init__(self, remedied):
        pass

    def work(self):
        uses()


def uses():
    kept = [None, True, False, Ellipsis, NotImplemented]
    kept += [int, str, bytes, list, dict, tuple, set, frozenset, float, complex, object, type]
    kept += [bytearray, memoryview, range, slice, property, super, enumerate, zip, map, filter]
    kept += [ValueError, KeyError, TypeError, IndexError, OSError, StopIteration, RuntimeError]
    return kept


class GcWalk:
    """Each worker looks at all objects, which a freeze hides."""

    def __init__(self, remedied):
        self.data = graph.nested(15000)
        if remedied:
            gc.freeze()

    def work(self):
        look()


def look():
    len(gc.get_objects())


WAYS = {
    "gc-freeze": GcFreeze,
    "data-structures": DataStructures,
    "exit": Exit,
    "extension": Extension,
    "gc-walk": GcWalk,
    "immortal": Immortal,
    "warm-up": WarmUp,
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=sorted(WAYS))
    parser.add_argument("--remedied", action="store_true")
    parser.add_argument("--workers", type=int, default=3)
    options = parser.parse_args()
    protocol.quiet()
    way = WAYS[options.way](options.remedied)
    protocol.ready()
    pids = [start(way) for _ in range(options.workers)]
    if hasattr(way, "master"):
        way.master()
    for pid in pids:
        os.waitpid(pid, 0)
    protocol.done([], pids=pids)


def start(way):
    """Forks a worker, which works once and ends without any more ado."""
    pid = os.fork()
    if pid == 0:
        way.work()
        os._exit(0)
    return pid


if __name__ == "__main__":
    main()
