"""Small servers of the standard library, which load the application and fork.

    server.py pool|asyncio|threads

Says its port when it listens.
"""

import argparse
import asyncio
import concurrent.futures
import multiprocessing
import os
import signal
import socket

import app
import protocol

WORKERS = 2


def path_of(request):
    return request.split()[1].decode()


def response(body):
    return b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def forked(serve, listener):
    """Runs `serve` in workers, until this process is told to end."""
    pids = []
    for _ in range(WORKERS):
        pid = os.fork()
        if pid == 0:
            serve(listener)
            os._exit(0)
        pids.append(pid)

    def end(_signal, _frame):
        for pid in pids:
            os.kill(pid, signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    started(listener)
    for pid in pids:
        os.waitpid(pid, 0)


def started(listener):
    protocol.say({"ready": {"pid": os.getpid(), "port": listener.getsockname()[1]}})


def pool(listener):
    """Requests come to one process, which lets a pool work."""
    context = multiprocessing.get_context("fork")
    with context.Pool(4) as workers:
        started(listener)
        while True:
            connection, _ = listener.accept()
            with connection:
                # A list, as for a map: one piece of work for some worker.
                bodies = workers.map(app.respond, [path_of(connection.recv(4096))])
                connection.sendall(response(bodies[0]))


def run_asyncio(listener):
    async def handle(reader, writer):
        line = await reader.readline()
        await asyncio.sleep(0)
        writer.write(response(app.respond(path_of(line))))
        await writer.drain()
        writer.close()

    async def main():
        server = await asyncio.start_server(handle, sock=listener)
        await server.serve_forever()

    asyncio.run(main())


def run_threads(listener):
    def handle(connection):
        with connection:
            connection.sendall(response(app.respond(path_of(connection.recv(4096)))))

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        while True:
            connection, _ = listener.accept()
            threads.submit(handle, connection)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["pool", "asyncio", "threads"])
    options = parser.parse_args()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    if options.kind == "pool":
        pool(listener)
    elif options.kind == "asyncio":
        forked(run_asyncio, listener)
    else:
        forked(run_threads, listener)


if __name__ == "__main__":
    main()
