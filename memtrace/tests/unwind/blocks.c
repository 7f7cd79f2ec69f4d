/* A child frees half of its parent's blocks, asks for as many again and fills them. With an argument, a
 * function of that library calls what does it. The library is compiled without unwind tables. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define FUNCTION __attribute__((noinline, noclone))
#define COUNT 60000

static char *blocks[COUNT];

static FUNCTION void frees(void)
{
    for (int n = 0; n < COUNT; n += 2)
        free(blocks[n]);
}

static FUNCTION void asks(void)
{
    for (int n = 0; n < COUNT; n += 2)
        blocks[n] = malloc(64);
}

static FUNCTION void fills(void)
{
    for (int n = 0; n < COUNT; n++)
        memset(blocks[n], 3, 64);
}

static void work(void)
{
    frees();
    asks();
    fills();
}

int main(int count, char **arguments)
{
    void (*call)(int, void (*)(void)) = NULL;
    if (count > 1)
        call = (void (*)(int, void (*)(void)))dlsym(dlopen(arguments[1], RTLD_NOW), "calls_back");
    for (int n = 0; n < COUNT; n++)
        memset(blocks[n] = malloc(64), 1, 64);
    printf("{\"ready\": {\"pid\": %d}}\n", getpid());
    fflush(stdout);
    char line[100];
    if (!fgets(line, sizeof line, stdin))
        return 1;
    if (fork() == 0) {
        if (call)
            call(40, work);
        else
            work();
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
