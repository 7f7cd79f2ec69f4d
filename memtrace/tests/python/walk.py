"""A child iterates over preloaded data: it reads only, and copies by reference counts.

    walk.py [--early] [--children N] [--scale N] [--nested]

--early forks before "ready", so that memtrace is attached to children that are there already and
sees nothing but the work.
"""

import argparse

import graph
import protocol


def walk(items):
    count = 0
    for item in items:  # walk
        count += 1
    return count


def visit(node):
    """Goes through everything below a node."""
    count = 0
    parts = node.parts
    for key in parts:
        for value in parts[key]:
            count += 1
            if type(value) is tuple:
                for member in value:
                    count += 1
    return count


def visit_all(nodes):
    for node in nodes:
        visit(node)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--early", action="store_true")
    parser.add_argument("--children", type=int, default=2)
    parser.add_argument("--scale", type=int, default=100)
    parser.add_argument("--nested", action="store_true")
    options = parser.parse_args()
    protocol.quiet()
    if options.nested:
        data = graph.nested(options.scale * 250)
        truth = {"functions": [protocol.name_of(each) for each in (visit, visit_all)]}
    else:
        data = graph.flat(options.scale)
        truth = {"site": protocol.site(walk, "walk"), "types": protocol.first_types(data)}

    def work():
        if options.nested:
            visit_all(data)
        else:
            walk(data)

    protocol.zero_frame()
    make = [lambda: protocol.Child(work, **truth) for _ in range(options.children)]
    children = [one() for one in make] if options.early else []
    protocol.ready()
    if not options.early:
        children = [one() for one in make]
    for child in children:
        child.work()
    protocol.done(children, **truth)


if __name__ == "__main__":
    main()
