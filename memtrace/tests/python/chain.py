"""Known chains of calls, each ending in `leaf`, which writes to a preloaded buffer of its own.

The truth is what CPython itself says its frames are, taken in the leaf just before it writes.
"""

import asyncio
import functools
import json
import sys
import threading

import protocol

PAGES = 48
# More frames than memtrace takes.
DEEP = 100


class Chains:
    """The buffers, and the frames of each chain."""

    def __init__(self, names):
        self.buffers = {name: bytearray(PAGES * protocol.PAGE) for name in names}
        self.frames = {}
        self.current = None


CHAINS = None
LEAF_LINE = protocol.line_of("leaf", __file__)


def frames_from(frame):
    """This frame and its callers, leaf first, as CPython has them."""
    found = []
    while frame is not None:
        code = frame.f_code
        found.append([protocol.name_of(code), code.co_filename, frame.f_lineno])
        frame = frame.f_back
    return found


def leaf(*_ignored):
    name = CHAINS.current
    frames = frames_from(sys._getframe())
    frames[0][2] = LEAF_LINE
    buffer = CHAINS.buffers[name]
    # Chains may come here more than once; the first time counts.
    if name not in CHAINS.frames:
        CHAINS.frames[name] = frames
        for index in range(0, len(buffer), 1024):
            buffer[index] = 1  # leaf
    return 0


# The chains, by name.


def plain():
    return Outer().enter()


class Outer:
    """Methods of every kind."""

    def enter(self):
        return self.shared(1)

    @classmethod
    def shared(cls, number):
        return cls.alone(number)

    @staticmethod
    def alone(number):
        def inner():
            return number + leaf()

        return inner()

    @property
    def value(self):
        return leaf()

    def __getattr__(self, name):
        return leaf(name)

    def __enter__(self):
        return leaf()

    def __exit__(self, *_why):
        return None


def attribute():
    return Outer().value


def missing_attribute():
    return Outer().absent


def context_manager():
    with Outer():
        return 0


def anonymous():
    return (lambda number: leaf(number))(1)


def generator():
    def produce():
        yield 1
        leaf()
        yield 2

    def delegate():
        yield from produce()

    return sum(each for each in delegate())


def coroutine():
    async def deepest():
        await asyncio.sleep(0)
        return leaf()

    async def middle():
        return await deepest()

    async def top():
        return await asyncio.gather(middle(), asyncio.sleep(0))

    return asyncio.run(top())


def async_generator():
    async def produce():
        yield leaf()

    async def top():
        async for each in produce():
            return each

    return asyncio.run(top())


def comprehension():
    return [leaf(each) for each in (1,)], 0


def dict_comprehension():
    return {each: {leaf(each) for _ in (1,)} for each in (1,)}


def executed():
    space = {"leaf": leaf}
    exec(compile("def made():\n\n    return eval('leaf()')\n\nmade()\n", "made_up.py", "exec"), space)


def sort_key():
    return sorted([1], key=leaf)


def mapped():
    return list(map(lambda each: leaf(each), [1]))


def reduced():
    return functools.reduce(lambda left, right: leaf(left, right), [1, 2])


def partial():
    return functools.partial(leaf, 1)()


def class_body():
    class Made:
        """Its body runs when it is made."""

        value = leaf()

    return Made


def decorated():
    def decorate(function):
        @functools.wraps(function)
        def wrapper():
            return function()

        return wrapper

    @decorate
    def function():
        return leaf()

    return function()


def callback_from_c():
    import ctypes

    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
    numbers = (ctypes.c_int * 2)(2, 1)
    ctypes.CDLL(None).qsort(numbers, 2, ctypes.sizeof(ctypes.c_int), kind(leaf))


def finalizer():
    class Dying:
        def __del__(self):
            leaf()

    Dying()
    return 0


def handler():
    try:
        raise ValueError
    except ValueError:
        return leaf()
    finally:
        pass


def thread():
    runner = threading.Thread(target=leaf)
    runner.start()
    runner.join()


def long_call():
    return leaf(
        1,
        leaf(
            2,
        ),
    )


def größe_漢字():
    return leaf()


def recursion(depth=40):
    if depth == 0:
        return leaf()
    return recursion(depth - 1)


def deep_recursion(depth=DEEP):
    if depth == 0:
        return leaf()
    return deep_recursion(depth - 1)


def hostile():
    """A name that would change the terminal, and one far too long."""

    def innocent():
        return leaf()

    code = innocent.__code__
    names = {"co_name": "evil\x1b[31m\n\r\x00name", "co_filename": "\x1b]0;evil\x07" + "y" * 5000}
    if hasattr(code, "co_qualname"):
        names["co_qualname"] = names["co_name"] + "z" * 5000
    innocent.__code__ = code.replace(**names)
    return innocent()


NAMED = [
    plain,
    attribute,
    missing_attribute,
    context_manager,
    anonymous,
    generator,
    coroutine,
    async_generator,
    comprehension,
    dict_comprehension,
    executed,
    sort_key,
    mapped,
    reduced,
    partial,
    class_body,
    decorated,
    callback_from_c,
    finalizer,
    handler,
    thread,
    long_call,
    größe_漢字,
    recursion,
    deep_recursion,
    hostile,
]


def run_all():
    skipped = {}
    for chain in NAMED:
        CHAINS.current = chain.__name__
        try:
            chain()
        except ImportError as error:
            skipped[chain.__name__] = str(error)
    return json.dumps({"frames": CHAINS.frames, "skipped": skipped}).encode()


def main():
    global CHAINS
    protocol.quiet()
    CHAINS = Chains([chain.__name__ for chain in NAMED])
    protocol.zero_frame()
    protocol.ready()
    child = protocol.Child(run_all)
    said = json.loads(child.work())
    buffers = {name: [address_of(each), PAGES] for name, each in CHAINS.buffers.items()}
    protocol.done([child], pages_each=PAGES, leaf="leaf", buffers=buffers, **said)


def address_of(buffer):
    """Where the bytes of a bytearray are, if ctypes is there."""
    try:
        import ctypes
    except ImportError:
        return 0
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


if __name__ == "__main__":
    main()
