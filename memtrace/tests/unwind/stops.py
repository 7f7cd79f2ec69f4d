# Run by gdb: prints the stack of each stop at `copy_here` in the child, outermost last, as addresses.
import gdb

for setting in [
    "pagination off",
    "confirm off",
    "follow-fork-mode child",
    "detach-on-fork on",
    "backtrace past-main on",
    "backtrace past-entry on",
    "backtrace limit 300",
    "disable-randomization on",
    "debuginfod enabled off",
]:
    try:
        gdb.execute("set " + setting)
    except gdb.error:
        pass
gdb.execute("handle all nostop noprint pass", to_string=True)
gdb.execute("handle SIGUSR1 nostop noprint pass", to_string=True)
gdb.Breakpoint("*copy_here")
gdb.execute("run > /dev/null", to_string=True)
while gdb.selected_thread() is not None and gdb.selected_thread().is_valid():
    frame, addresses = gdb.newest_frame(), []
    while frame is not None:
        if frame.type() not in (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME):
            addresses.append("%x" % frame.pc())
        frame = frame.older()
    print("STACK " + " ".join(addresses), flush=True)
    gdb.execute("continue", to_string=True)
