"""An application that calls one function of an installed package for two reasons, and a child that
ends as a program does rather than at once.
"""

import os
import shutil
import sys
import tempfile

import graph
import protocol

LIBRARY = """
def each(items):
    for item in items:
        pass
"""


def install(folder):
    """Installs the package as a virtual environment has it, and imports it."""
    packages = os.path.join(folder, "lib", "site-packages")
    os.makedirs(packages)
    with open(os.path.join(packages, "walking.py"), "w") as file:
        file.write(LIBRARY)
    sys.dont_write_bytecode = True
    sys.path.insert(0, packages)
    import walking

    return walking


def report(library, items):
    library.each(items)  # report


def export(library, items):
    library.each(items)  # export


def leave(library, items):
    sys.exit(0)


def main():
    folder = tempfile.mkdtemp()
    try:
        library = install(folder)
    finally:
        shutil.rmtree(folder)
    protocol.quiet()
    items = graph.words(8000)
    pages = len(protocol.pages_of(items))
    protocol.ready()
    pids = []
    for work in (report, export, leave):
        pid = os.fork()
        if pid == 0:
            work(library, items)
            os._exit(0)
        pids.append(pid)
        os.waitpid(pid, 0)
    apps = [protocol.site(report, "report"), protocol.site(export, "export")]
    protocol.done([], pids=pids, pages_each=pages, apps=apps)


if __name__ == "__main__":
    main()
