"""The preloaded data of an application: lists, dicts, strs, tuples and objects of its own class."""


class Node:
    """A class of the application."""

    def __init__(self, number, parts):
        self.number = number
        self.parts = parts


def words(count, prefix="word"):
    """Strings of their own, which nothing interned."""
    return ["%s-%09d-%s" % (prefix, number, "x" * 40) for number in range(count)]


def flat(scale):
    """Objects of five types in runs of each, in one list."""
    graph = []
    for run in range(scale):
        base = run * 1000
        graph += words(600, "run%d" % run)
        graph += [(base + number, number, None, 1.5) for number in range(500)]
        graph += [[number, None, None] for number in range(300)]
        graph += [{"key": number, "run": run} for number in range(300)]
        graph += [Node(base + number, None) for number in range(400)]
    return graph


def nested(scale):
    """Objects that hold others, four deep."""
    return [
        Node(number, {"names": words(6, "n%d" % number), "pairs": [(number, float(number))] * 2})
        for number in range(scale)
    ]
