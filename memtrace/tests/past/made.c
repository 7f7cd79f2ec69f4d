/* Writes to shared pages from code that was made at run time, each page from a function of its own.
 *
 *     made DISTINCT PAGES
 *
 * Says that it is ready, waits for a line, lets a child call DISTINCT functions, each of which copies a page,
 * and then the first PAGES of them again; says how many pages that were, and ends with its input. So that
 * memory for PAGES pages is enough, the child forks another that does nothing but hold them, again and
 * again. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096L

/* push %rbp; mov %rsp, %rbp; movb $2, (%rdi); pop %rbp; ret */
static const unsigned char FUNCTION[16] = {0x55, 0x48, 0x89, 0xe5, 0xc6, 0x07, 0x02, 0x5d, 0xc3};

static char *memory, *code;
static long pages;

__attribute__((noinline, noclone)) static void calls_made_code(long first)
{
    for (long page = 0; page < pages; page++)
        ((void (*)(char *))(code + (first + page) * (long)sizeof FUNCTION))(memory + page * PAGE);
}

static void while_held(long first)
{
    int holder = fork();
    if (holder == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            pause();
    }
    calls_made_code(first);
    kill(holder, SIGKILL);
    waitpid(holder, NULL, 0);
}

static char *map(long size)
{
    char *place = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(place, (size_t)size, MADV_NOHUGEPAGE);
    return place;
}

int main(int count, char **arguments)
{
    char line[100];
    long distinct = count == 3 ? atol(arguments[1]) : 0;
    pages = count == 3 ? atol(arguments[2]) : 0;
    if (pages < 1 || distinct < pages || distinct % pages != 0)
        return 1;
    code = map(distinct * (long)sizeof FUNCTION);
    for (long n = 0; n < distinct; n++)
        memcpy(code + n * (long)sizeof FUNCTION, FUNCTION, sizeof FUNCTION);
    mprotect(code, (size_t)distinct * sizeof FUNCTION, PROT_READ | PROT_EXEC);
    memory = map(pages * PAGE);
    memset(memory, 1, (size_t)(pages * PAGE));
    printf("{\"ready\": {\"pid\": %d}}\n", getpid());
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        return 1;
    int worker = fork();
    if (worker == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (long first = 0; first < distinct; first += pages)
            while_held(first);
        /* Whoever has too many stacks to keep has found that out by then. */
        usleep(1500000);
        while_held(0);
        _exit(0);
    }
    waitpid(worker, NULL, 0);
    printf("{\"done\": {\"pid\": %d, \"pages\": %ld}}\n", worker, distinct + pages);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin))
        ;
    return 0;
}
