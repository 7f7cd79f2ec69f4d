"""Processes with much memory that work for as long as they are told, and say how much they did.

Arguments: processes, megabytes of each. A line on standard input with seconds makes them work; the
answer is how often, all together, they went through a piece of their memory, mapping and unmapping some
on the way, which takes the lock that reading smaps takes, too.
"""

import mmap
import os
import sys
import time

PAGE = 4096
PIECE = 64 * PAGE


def work(memory, seconds):
    done = at = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for page in range(at, at + PIECE, PAGE):
            memory[page] = 1
        at = (at + PIECE) % (len(memory) - PIECE)
        with mmap.mmap(-1, 16 * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as more:
            more[0] = 1
        done += 1
    return done


def child(orders, answers, size):
    memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for page in range(0, size, PAGE):
        memory[page] = 1
    os.write(answers, b"ready\n")
    for line in os.fdopen(orders):
        os.write(answers, b"%d\n" % work(memory, float(line)))


def main(processes, megabytes):
    ends = []
    for _ in range(processes):
        orders, order = os.pipe()
        answer, answers = os.pipe()
        if os.fork() == 0:
            os.close(order)
            for other, _ in ends:
                other.close()
            child(orders, answers, megabytes << 20)
            os._exit(0)
        os.close(orders)
        os.close(answers)
        ends.append((os.fdopen(order, "w"), os.fdopen(answer)))
    for _, answer in ends:
        answer.readline()
    print("ready", flush=True)
    for line in sys.stdin:
        for order, _ in ends:
            order.write(line)
            order.flush()
        print(sum(int(answer.readline()) for _, answer in ends), flush=True)


main(int(sys.argv[1]), int(sys.argv[2]))
