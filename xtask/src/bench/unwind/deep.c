/* What `cargo xtask bench unwind` traces. A child copies pages at a known depth of calls, either all on
 * one stack, or each on another one; or children that wait, for the memory that tracing them needs.
 *
 * deep DEPTH PAGES one|varied      deep wait CHILDREN PAGES */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FUNCTION __attribute__((noinline, noclone))
#define PAGE 4096L

static char *memory;
static unsigned state = 1;
static int varied;
static volatile long sink;

static FUNCTION void touch(long page)
{
    ((volatile char *)memory)[page * PAGE] = 2;
}

static void descend(int depth, long from, long to);
#define LEVEL(name, size)                                      \
    static FUNCTION void name(int depth, long from, long to)   \
    {                                                          \
        volatile char room[size];                              \
        room[0] = (char)depth;                                 \
        descend(depth - 1, from, to);                          \
        sink += room[0];                                       \
    }
LEVEL(first, 24)
LEVEL(second, 56)
LEVEL(third, 88)
LEVEL(fourth, 120)

/* Two frames a level. */
static FUNCTION void descend(int depth, long from, long to)
{
    if (depth <= 0) {
        for (long page = from; page < to; page++)
            touch(page);
        sink++;
        return;
    }
    state = state * 1103515245 + 12345;
    switch (varied ? state >> 16 & 3 : depth & 3) {
    case 0: first(depth, from, to); break;
    case 1: second(depth, from, to); break;
    case 2: third(depth, from, to); break;
    default: fourth(depth, from, to);
    }
    sink++;
}

static void say_ready(long pages)
{
    long size = pages * PAGE;
    memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(memory, size, MADV_NOHUGEPAGE);
    memset(memory, 1, size);
    printf("{\"ready\": {\"pid\": %d}}\n", getpid());
    fflush(stdout);
    char line[64];
    if (!fgets(line, sizeof line, stdin))
        exit(1);
}

static void wait_for_the_end(void)
{
    char line[64];
    fflush(stdout);
    while (fgets(line, sizeof line, stdin))
        ;
}

static double once(int depth, long pages)
{
    int pipes[2];
    if (pipe(pipes))
        exit(1);
    if (fork() == 0) {
        struct timespec begin, end;
        clock_gettime(CLOCK_MONOTONIC, &begin);
        if (varied)
            for (long page = 0; page < pages; page++)
                descend(depth / 2, page, page + 1);
        else
            descend(depth / 2, 0, pages);
        clock_gettime(CLOCK_MONOTONIC, &end);
        double ns = (end.tv_sec - begin.tv_sec) * 1e9 + (end.tv_nsec - begin.tv_nsec);
        _exit(write(pipes[1], &ns, sizeof ns) != sizeof ns);
    }
    double ns = 0;
    if (read(pipes[0], &ns, sizeof ns) != sizeof ns)
        exit(1);
    close(pipes[0]);
    close(pipes[1]);
    wait(NULL);
    return ns;
}

int main(int count, char **arguments)
{
    if (count < 4)
        return 1;
    long pages = atol(arguments[strcmp(arguments[1], "wait") ? 2 : 3]);
    varied = !strcmp(arguments[3], "varied");
    say_ready(pages);
    if (!strcmp(arguments[1], "wait")) {
        int children = atoi(arguments[2]), pipes[2];
        if (pipe(pipes))
            return 1;
        for (int n = 0; n < children; n++)
            if (fork() == 0) {
                char byte;
                close(pipes[1]);
                descend(10, 0, pages);
                /* Until the parent ends. */
                _exit(read(pipes[0], &byte, 1) < 0);
            }
        sleep(1);
        printf("{\"done\": {}}\n");
        wait_for_the_end();
        close(pipes[1]);
        while (wait(NULL) > 0)
            ;
        return 0;
    }
    int depth = atoi(arguments[1]);
    double ns = once(depth, pages) + once(depth, pages);
    printf("{\"done\": {\"ns\": %.0f, \"pages\": %ld}}\n", ns, 2 * pages);
    wait_for_the_end();
    return 0;
}
