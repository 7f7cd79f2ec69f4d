/* Forks children that write to shared pages and then become another program.
 *
 *     forks PROGRAM CHILDREN MICROSECONDS
 *
 * Says that it is ready, waits for a line, forks them, so far apart, says which they were, and ends with its
 * input. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>

#define PAGE 4096L
#define PAGES 200L
#define MOST 1000

static volatile char *memory;

__attribute__((noinline, noclone)) void a_writes(long page)
{
    memory[page * PAGE] = 2;
}

static void child(const char *program)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (long page = 0; page < PAGES; page++)
        a_writes(page);
    execl(program, program, NULL);
    _exit(1);
}

int main(int count, char **arguments)
{
    static int pids[MOST];
    char line[100];
    int children = count == 4 ? atoi(arguments[2]) : 0;
    if (children < 1 || children > MOST)
        return 1;
    char *place = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(place, PAGES * PAGE, MADV_NOHUGEPAGE);
    memory = place;
    for (long page = 0; page < PAGES; page++)
        memory[page * PAGE] = 1;
    printf("{\"ready\": {\"pid\": %d}}\n", getpid());
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        return 1;
    for (int n = 0; n < children; n++) {
        pids[n] = fork();
        if (pids[n] == 0)
            child(arguments[1]);
        usleep((useconds_t)atoi(arguments[3]));
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
    }
    while (wait(NULL) > 0)
        ;
    printf("{\"done\": {\"pages_each\": %ld, \"pids\": [%d", PAGES, pids[0]);
    for (int n = 1; n < children; n++)
        printf(", %d", pids[n]);
    printf("]}}\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin))
        ;
    return 0;
}
