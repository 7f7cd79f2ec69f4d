/* A child copies pages on a stack of its own, by makecontext and swapcontext. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define FUNCTION __attribute__((noinline, noclone))
#define PAGE 4096L
#define PAGES 200L

static char *memory;
static volatile long sink;
static ucontext_t starter, other;

FUNCTION void touch_at(long page)
{
    ((volatile char *)memory)[page * PAGE] = 2;
}

static FUNCTION void in_context(void)
{
    for (long page = 0; page < PAGES; page++) {
        touch_at(page);
        if (page % 10 == 0)
            swapcontext(&other, &starter);
    }
    sink++;
}

static FUNCTION void starts_context(void)
{
    getcontext(&other);
    other.uc_stack.ss_sp = malloc(64 << 10);
    other.uc_stack.ss_size = 64 << 10;
    other.uc_link = &starter;
    makecontext(&other, in_context, 0);
    for (long n = 0; n <= PAGES / 10; n++)
        swapcontext(&starter, &other);
}

int main(void)
{
    memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(memory, PAGES * PAGE, MADV_NOHUGEPAGE);
    memset(memory, 1, PAGES * PAGE);
    printf("{\"ready\": {\"pid\": %d}}\n", getpid());
    fflush(stdout);
    char line[100];
    if (!fgets(line, sizeof line, stdin))
        return 1;
    if (fork() == 0) {
        starts_context();
        usleep(200000);
        _exit(0);
    }
    wait(NULL);
    printf("{\"done\": {}}\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin))
        ;
    return 0;
}
