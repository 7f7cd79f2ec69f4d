"""The trap of order: a child frees preloaded objects and fills their memory with others.

Whoever looks at the memory after the fault finds the wrong types. The truth is what stood there
when the page was written to first.
"""

import graph
import protocol

COUNT = 40000


class Filler:
    """What stands in freed memory later."""

    __slots__ = ("one", "two", "three", "four", "five")


def free_words(items):
    for index in range(len(items)):
        items[index] = None  # free_words


def free_tuples(items):
    for index in range(len(items)):
        items[index] = None  # free_tuples


def fill_again(count):
    """Objects of other types, of all small sizes."""
    made = []
    for number in range(count):
        made.append(Filler())
        made.append(b"%088d" % number)
        made.append([number])
    return made


def use_holes(count):
    """Takes memory that was free already when the child was forked: its old objects are dead."""
    made = []
    for number in range(count):
        made.append(b"%0150d" % number)  # use_holes
    return made


def main():
    protocol.quiet()
    words = graph.words(COUNT)
    # Nothing in them is freed with them.
    tuples = [tuple([None, True, None, False]) for _ in range(COUNT)]
    # Every second one dies, so that no pool becomes free as a whole.
    holes = ["%0140d" % number for number in range(2 * COUNT)]
    holes_pages = len(protocol.pages_of(holes[::2]))
    for index in range(0, len(holes), 2):
        holes[index] = None

    def work():
        free_words(words)
        free_tuples(tuples)
        kept = fill_again(COUNT // 2)
        kept.append(use_holes(COUNT // 2))

    truth = {
        "ways": {
            "free_words": {"object_type": "str", "pages": len(protocol.pages_of(words))},
            "free_tuples": {"object_type": "tuple", "pages": len(protocol.pages_of(tuples))},
        },
        "never": [protocol.type_name(Filler), "bytes"],
        "holes_pages": holes_pages,
    }
    protocol.zero_frame()
    protocol.ready()
    child = protocol.Child(work)
    child.work()
    protocol.done([child], **truth)


if __name__ == "__main__":
    main()
