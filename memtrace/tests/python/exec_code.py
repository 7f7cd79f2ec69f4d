"""Functions that are compiled, used once and freed, so that code addresses are used again.

Each function iterates over preloaded objects of its own, so a wrong name is a wrong count.
"""

import gc

import graph
import protocol

FUNCTIONS = 60
PAGES_EACH = 40


def make_and_run(number, items):
    source = "\n" * (number % 7) + "def made_%d(items):\n    for item in items: pass\n" % number
    space = {}
    exec(compile(source, "made_%d.py" % number, "exec"), space)
    space["made_%d" % number](items)


def main():
    protocol.quiet()
    per_page = protocol.PAGE // 112
    segments = [
        graph.words(PAGES_EACH * per_page, "segment%d" % number) for number in range(FUNCTIONS)
    ]
    # A page between two segments is copied by the first of them.
    seen = set()
    truth = []
    for number, segment in enumerate(segments):
        pages = protocol.pages_of(segment) - seen
        seen |= pages
        truth.append(
            {
                "function": "made_%d" % number,
                "file": "made_%d.py" % number,
                "line": number % 7 + 2,
                "pages": len(pages),
            }
        )

    def work():
        for number, segment in enumerate(segments):
            make_and_run(number, segment)
            if number % 8 == 0:
                gc.collect(0)

    protocol.zero_frame()
    protocol.ready()
    child = protocol.Child(work)
    child.work()
    protocol.done([child], made=truth)


if __name__ == "__main__":
    main()
