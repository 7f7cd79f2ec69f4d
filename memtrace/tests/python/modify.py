"""A child really modifies preloaded data, in ways whose first write to each page is known.

Each way is a function of its own: what it must not be called is a reference count, but for
`insert_keys` and `set_attributes`, which take a reference before they write.
"""

import graph
import protocol

SCALE = 1000 * 512


class Slotted:
    """Attributes in the object itself."""

    __slots__ = ("left", "right")

    def __init__(self):
        self.left = None
        self.right = None


def set_items(items):
    for index in range(0, len(items), 64):
        items[index] = True  # set_items


def fill_bytes(buffer):
    for index in range(0, len(buffer), 1024):
        buffer[index] = 1  # fill_bytes


def step_iterators(stepper):
    next(stepper)  # step_iterators


def insert_keys(dicts):
    for each in dicts:  # insert_keys
        each[True] = False  # insert_keys_store


def set_attributes(objects):
    for each in objects:  # set_attributes
        each.right = False  # set_attributes_store


def counted_first(objects, field):
    """Pages of which a reference count is written before any field at this offset."""
    first = {}
    for each in objects:
        first.setdefault(id(each) // protocol.PAGE, True)
        first.setdefault((id(each) + field) // protocol.PAGE, False)
    return sum(first.values())


def main():
    protocol.quiet()
    items = [None] * SCALE
    buffer = bytearray(SCALE * 8)
    row = [None, None, None]
    iterators = [iter(row) for _ in range(SCALE // 16)]
    # zip steps its iterators without taking a reference to them.
    stepper = zip(*iterators)
    dicts = [{number: number} for number in range(SCALE // 32)]
    objects = [Slotted() for _ in range(SCALE // 16)]
    next(stepper)
    iterator = protocol.type_name(type(iterators[0]))
    header = 32 if protocol.is_free_threaded() else 16

    def work():
        set_items(items)
        fill_bytes(buffer)
        step_iterators(stepper)
        insert_keys(dicts)
        set_attributes(objects)

    ways = {
        "set_items": {"cause": "data", "pages": SCALE * 8 // protocol.PAGE},
        "fill_bytes": {"cause": "data", "pages": SCALE * 8 // protocol.PAGE},
        "step_iterators": {
            "cause": "object",
            "pages": len(protocol.pages_of(iterators)),
            "object_type": iterator,
            "field_offset": header,
        },
        # What is beyond these pages is data: the tables of keys.
        "insert_keys": {"cause": "refcount", "pages": len(protocol.pages_of(dicts))},
        # Where an object lies across, its field is the first that is written of a page.
        "set_attributes": {
            "cause": "refcount",
            "pages": counted_first(objects, header + 8),
            "object_type": protocol.type_name(Slotted),
        },
    }
    protocol.zero_frame()
    protocol.ready()
    child = protocol.Child(work)
    child.work()
    protocol.done([child], ways=ways)


if __name__ == "__main__":
    main()
