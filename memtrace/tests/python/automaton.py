"""A child searches in an automaton of a library in C, which was made before the fork and frozen.

    automaton.py
"""

import gc
import random

import protocol

try:
    import ahocorasick
except ImportError:
    protocol.unavailable("pyahocorasick is not installed")


def search(automaton, text):
    found = 0
    for _, (number, word) in automaton.iter(text):  # search
        found += 1
    return found


def main():
    protocol.quiet()
    random.seed(1)
    words = ["".join(random.choices("abcdefghijklmnop", k=8)) for _ in range(60000)]
    automaton = ahocorasick.Automaton()
    for number, word in enumerate(words):
        automaton.add_word(word, (number, word))
    automaton.make_automaton()
    text = " ".join(random.sample(words, 30000))
    gc.collect()
    gc.freeze()
    protocol.ready()
    truth = {"site": protocol.site(search, "search")}
    child = protocol.Child(lambda: assert_found(search(automaton, text)), **truth)
    child.work()
    protocol.done([child], **truth)


def assert_found(found):
    assert found >= 30000


if __name__ == "__main__":
    main()
