"""A child reads objects in a greenlet that was started deep in the C stack, and is switched to again
when that part of the stack is another's.

    greenlets.py
"""

import protocol

try:
    import greenlet
except ImportError:
    protocol.unavailable("greenlet is not installed")

LENGTH = 30000


def read(texts):
    for _ in texts:  # read
        pass


def deep(depth, then):
    # A C frame for each call.
    if depth:
        sorted([1], key=lambda _: deep(depth - 1, then))
    else:
        then()


def switch(texts):
    first = greenlet.getcurrent()

    def inner():
        first.switch()
        read(texts)

    other = greenlet.greenlet(inner)
    deep(8, other.switch)
    deep(12, lambda: None)
    other.switch()


def main():
    protocol.quiet()
    texts = [str(n) + "x" * 30 for n in range(LENGTH)]
    protocol.ready()
    child = protocol.Child(lambda: switch(texts))
    child.work()
    protocol.done([child])


if __name__ == "__main__":
    main()
