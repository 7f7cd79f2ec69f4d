"""What every workload shares: how it is driven, its children, and the truth about them.

A workload is a program that is driven by lines, as the fixture in Rust is: it builds its data,
prints {"ready": {"pid": ...}}, waits for a line, lets children work, prints {"done": {...}}, and
exits when its standard input ends. Every child stays until then, so that it can be looked at.

The truth comes from the kernel and from CPython, never from memtrace: which pages have another
frame after the work than before (/proc/PID/pagemap, which needs root), the growth of Private_Dirty
(/proc/PID/smaps_rollup), the addresses of the objects, and CPython's own frames.

Works with 3.8 to 3.14, with and without the GIL, and uses the standard library only.
"""

import array
import gc
import json
import mmap
import os
import sys
import traceback

PAGE = mmap.PAGESIZE

# Bits of an entry of /proc/PID/pagemap.
PRESENT = 1 << 63
SWAPPED = 1 << 62
FILE = 1 << 61
EXCLUSIVE = 1 << 56
FRAME = (1 << 55) - 1


def say(message):
    """Prints one line of JSON."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def unavailable(why):
    """Says that this interpreter cannot do what it is asked to, and ends."""
    say({"unavailable": why})
    sys.exit(0)


def ready(**more):
    """Says who this is, and waits until it may begin."""
    if os.environ.pop("MEMTRACE_STARTED", None):
        # This program became Python while it was traced already: who started it has said so.
        return
    say({"ready": dict({"pid": os.getpid(), "version": sys.version}, **more)})
    if not sys.stdin.readline():
        sys.exit(0)


def done(children, **more):
    """Says what happened, and waits until everybody may exit."""
    said = {"processes": [child.truth for child in children]}
    said.update(more)
    say({"done": said})
    sys.stdin.readline()
    # All gates first: a child also holds the gates of those that were forked before it.
    for child in children:
        os.close(child.gate)
    for child in children:
        os.waitpid(child.pid, 0)


class Child:
    """A forked child that waits at a gate, works once, and stays.

    `work` is called in the child. It may return bytes, which `work` of the parent's side gives to
    `heard`; whatever makes them counts as work too, so a work that has nothing to say says nothing.
    """

    def __init__(self, work, **truth):
        gate, self.gate = os.pipe()
        self.voice, voice = os.pipe()
        self.truth = truth
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.gate)
            os.close(self.voice)
            _child(work, gate, voice)
        os.close(gate)
        os.close(voice)
        self.truth["pid"] = self.pid
        if os.read(self.voice, 1) != b"r":
            raise SystemExit("a child ended before its work")

    def work(self):
        """Lets it work, and completes its truth. Returns what the work said."""
        before = Snapshot(self.pid)
        dirty = private_dirty(self.pid)
        os.write(self.gate, b"g")
        verdict = os.read(self.voice, 1)
        dirty = private_dirty(self.pid) - dirty
        after = Snapshot(self.pid)
        said = b""
        if verdict == b"!" or verdict == b"s":
            length = int.from_bytes(_read(self.voice, 8), "little")
            said = _read(self.voice, length)
        if verdict not in (b"+", b"s"):
            raise SystemExit("the work failed: " + said.decode("utf-8", "replace"))
        self.truth["copied"] = before.copied(after)
        self.truth["private_dirty_growth"] = dirty
        return said


def _child(work, gate, voice):
    """The child's side; does not return. What it does besides the work touches few pages."""
    try:
        os.write(voice, b"r")
        if not os.read(gate, 1):
            os._exit(0)
        said = work()
        if said is None:
            os.write(voice, b"+")
        else:
            os.write(voice, b"s" + len(said).to_bytes(8, "little"))
            _write(voice, said)
        # The end of the file says that the parent has closed the gate, or has gone.
        os.read(gate, 1)
    except BaseException:
        said = traceback.format_exc().encode()
        os.write(voice, b"!" + len(said).to_bytes(8, "little"))
        _write(voice, said)
    finally:
        os._exit(0)


def _write(fd, data):
    while data:
        data = data[os.write(fd, data):]


def _read(fd, length):
    data = b""
    while len(data) < length:
        more = os.read(fd, length - len(data))
        if not more:
            break
        data += more
    return data


class Snapshot:
    """Which frame stands behind each writable private page of a process."""

    def __init__(self, pid):
        self.ranges = {}
        with open("/proc/%d/maps" % pid) as maps:
            lines = maps.readlines()
        with open("/proc/%d/pagemap" % pid, "rb", buffering=0) as pagemap:
            for line in lines:
                span, permissions, _offset, _device, inode = line.split()[:5]
                if permissions[1] != "w" or permissions[3] != "p":
                    continue
                start, end = (int(part, 16) for part in span.split("-"))
                pagemap.seek(start // PAGE * 8)
                entries = array.array("Q")
                entries.frombytes(pagemap.read((end - start) // PAGE * 8))
                for page, entry in enumerate(entries, start // PAGE):
                    tries = 100
                    while entry & SWAPPED and tries:
                        # The kernel is moving it.
                        pagemap.seek(page * 8)
                        entry = int.from_bytes(pagemap.read(8), "little")
                        tries -= 1
                    # Absent pages matter only where a write would copy one of a file.
                    if entry & PRESENT or inode != "0":
                        self.ranges[page] = entry

    def copied(self, later):
        """How many pages were copied between this snapshot and a later one.

        A page that was copied has another frame and nobody else has it. Another frame alone says
        little: the kernel moves pages, to make room for huge ones.
        """
        zero = zero_frame()
        copied = 0
        for page, new in later.ranges.items():
            old = self.ranges.get(page)
            if old is None or not new & PRESENT or new & FILE:
                continue
            if old & PRESENT:
                frame = old & FRAME
                is_own = new & EXCLUSIVE and not old & EXCLUSIVE
                copied += bool(is_own) and frame != new & FRAME and frame != zero
            else:
                # Absent before, in a mapping of a file, and anonymous now.
                copied += 1
        return copied


_zero = []


def zero_frame():
    """The frame of the kernel's page of zeroes."""
    if not _zero:
        memory = mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory[0]
        pages = {entry & FRAME for entry in _own_entries(memory)}
        _zero.append(pages.pop() if len(pages) == 1 else 0)
    return _zero[0]


def _own_entries(memory):
    """The page table's entries of a mapping of this process that was just read."""
    try:
        import ctypes
    except ImportError:
        return []
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        pagemap.seek(address // PAGE * 8)
        return [int.from_bytes(pagemap.read(8), "little")]


def private_dirty(pid):
    """Bytes of Private_Dirty, as smaps_rollup has them."""
    with open("/proc/%d/smaps_rollup" % pid) as rollup:
        for line in rollup:
            if line.startswith("Private_Dirty:"):
                return int(line.split()[1]) * 1024
    raise SystemExit("smaps_rollup has no Private_Dirty")


def name_of(code):
    """A function's name as memtrace is to give it: qualified where CPython keeps that."""
    code = getattr(code, "__code__", code)
    return getattr(code, "co_qualname", code.co_name)


def line_of(marker, file):
    """The line that ends with the comment `# <marker>`."""
    with open(file) as source:
        for number, line in enumerate(source, 1):
            if line.rstrip().endswith("# " + marker):
                return number
    raise SystemExit("no line is marked with " + marker)


def site(function, marker):
    """A function and its marked line."""
    code = getattr(function, "__code__", function)
    return {
        "function": name_of(code),
        "file": os.path.basename(code.co_filename),
        "line": line_of(marker, code.co_filename),
    }


def type_name(kind):
    """A type's name as memtrace is to give it: with its module, unless it is built in."""
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return kind.__module__ + "." + kind.__qualname__


def pages_of(objects):
    """The pages on which the headers of these objects are."""
    return {id(each) // PAGE for each in objects}


def first_types(objects):
    """Pages by the type of the first of these objects on each, in this order: what iterating over
    them writes to first."""
    first = {}
    for each in objects:
        first.setdefault(id(each) // PAGE, type(each))
    pages = {}
    for kind in first.values():
        name = type_name(kind)
        pages[name] = pages.get(name, 0) + 1
    return pages


def quiet():
    """No garbage collection but on request."""
    gc.disable()


def is_free_threaded():
    """Whether this interpreter runs without the GIL."""
    import sysconfig

    return bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
