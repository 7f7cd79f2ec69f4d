"""Processes with much memory that work for as long as they are told, and say how much they did.

Arguments: processes, megabytes of each. A line on standard input with seconds makes them work; the
answer is how often, all together, they went through a piece of their memory, in each hundredth of a
second by the monotonic clock, as JSON. On the way they map and unmap some, which takes the lock that
reading smaps takes, too. A line "fork" forks a process that ends at once; the answer is its pid, and
when that was.
"""

import collections
import json
import mmap
import os
import sys
import time

PAGE = 4096
PIECE = 64 * PAGE


def work(memory, seconds):
    done = collections.Counter()
    at = 0
    now = time.monotonic()
    end = now + seconds
    while now < end:
        for page in range(at, at + PIECE, PAGE):
            memory[page] = 1
        at = (at + PIECE) % (len(memory) - PIECE)
        with mmap.mmap(-1, 16 * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as more:
            more[0] = 1
        now = time.monotonic()
        done[int(now * 100)] += 1
    return done


def child(orders, answers, size):
    memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for page in range(0, size, PAGE):
        memory[page] = 1
    with os.fdopen(answers, "w") as answers:
        print("ready", file=answers, flush=True)
        for line in os.fdopen(orders):
            print(json.dumps(work(memory, float(line))), file=answers, flush=True)


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
        if line == "fork\n":
            now = time.monotonic()
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
            print(json.dumps([pid, now]), flush=True)
            continue
        for order, _ in ends:
            order.write(line)
            order.flush()
        done = collections.Counter()
        for _, answer in ends:
            done.update(json.loads(answer.readline()))
        print(json.dumps(done), flush=True)


main(int(sys.argv[1]), int(sys.argv[2]))
