"""Jobs of a server that forks (multiprocessing), each of which collects what was loaded before.

    forkserver.py
"""

import gc
import multiprocessing
import os

import protocol

JOBS = 2


class Model:
    def __init__(self, number):
        self.number = number
        self.parts = {"a": number, "b": [number, number]}


# The server imports this module under its name; jobs know it as their main one, too.
MODELS = [Model(number) for number in range(40000)] if __name__ == "forkserver" else []
# So that jobs collect when they are told to.
gc.disable()


def job(go, done, stay):
    done.release()
    go.wait()
    gc.collect()  # collect
    done.release()
    stay.wait()


def main():
    protocol.quiet()
    # The server is a program of its own, which looks for modules by itself.
    os.chdir(os.path.dirname(os.path.abspath(__file__)))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["forkserver"])
    go, done, stay = context.Event(), context.Semaphore(0), context.Event()
    # As a function of the module that the server has loaded.
    import forkserver

    jobs = [context.Process(target=forkserver.job, args=(go, done, stay)) for _ in range(JOBS)]
    for each in jobs:
        each.start()
    for _ in jobs:
        done.acquire()
    protocol.ready()
    go.set()
    for _ in jobs:
        done.acquire()
    site = protocol.site(job, "collect")
    protocol.done([], pids=[each.pid for each in jobs], site=site)
    stay.set()
    for each in jobs:
        each.join()


if __name__ == "__main__":
    main()
