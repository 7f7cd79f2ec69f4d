"""A child reads large preloaded buffers that hold no objects: nearly nothing is copied.

    buffers.py [--numpy]
"""

import argparse
import array
import mmap

import protocol

SIZE = 16 << 20


def read_array(numbers):
    return sum(numbers)


def read_bytes(text):
    return text.count(b"needle") + sum(text[:: protocol.PAGE])


def read_mapping(mapping):
    return mapping.find(b"needle")


def read_numpy(matrix):
    return float(matrix.sum() + matrix.max() + (matrix * 2.0).mean())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--numpy", action="store_true")
    options = parser.parse_args()
    if options.numpy:
        try:
            import numpy
        except ImportError:
            protocol.unavailable("numpy is not installed for this interpreter (cargo xtask pythons)")
    protocol.quiet()
    numbers = array.array("d", [1.5]) * (SIZE // 8)
    text = b"haystack" * (SIZE // 8)
    mapping = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapping.write(text)
    matrix = numpy.ones((SIZE // 8 // 64, 64)) if options.numpy else None

    def work():
        read_array(numbers)
        read_bytes(text)
        read_mapping(mapping)
        if matrix is not None:
            read_numpy(matrix)

    protocol.zero_frame()
    protocol.ready()
    child = protocol.Child(work)
    child.work()
    buffers = 4 if options.numpy else 3
    protocol.done([child], read_pages=buffers * SIZE // protocol.PAGE)


if __name__ == "__main__":
    main()
