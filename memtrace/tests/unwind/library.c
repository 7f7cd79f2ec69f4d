/* What calls.c calls through the procedure linkage table, and what calls back the same way. */
static volatile long sink;

__attribute__((noinline, noclone)) void library_step(void (*then)(void), int depth)
{
    extern void library_calls(void (*)(void), int);
    volatile char room[200];
    room[0] = 1;
    if (depth > 0)
        library_calls(then, depth - 1);
    else
        then();
    sink += room[0];
}

__attribute__((noinline, noclone)) void library_calls(void (*then)(void), int depth)
{
    library_step(then, depth);
    sink++;
}
