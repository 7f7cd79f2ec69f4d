/* Workers that write what they are for over their arguments, as PostgreSQL does.
 *
 *     role MILLISECONDS SOME WORDS TO WRITE OVER
 *
 * Says that it is ready, waits for a line, forks a worker that writes its role so long after its start and
 * ends a second later; says which it was, and ends with its input. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static void worker(char *first, size_t room, unsigned wait)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    usleep(wait * 1000);
    memset(first, 0, room);
    strncpy(first, "role: worker 7", room - 1);
    usleep(1000000);
    _exit(0);
}

int main(int count, char **arguments)
{
    char line[100];
    if (count < 3)
        return 1;
    char *end = arguments[count - 1] + strlen(arguments[count - 1]) + 1;
    unsigned wait = (unsigned)atoi(arguments[1]);
    printf("{\"ready\": {\"pid\": %d}}\n", getpid());
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        return 1;
    int pid = fork();
    if (pid == 0)
        worker(arguments[0], (size_t)(end - arguments[0]), wait);
    waitpid(pid, NULL, 0);
    printf("{\"done\": %d}\n", pid);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin))
        ;
    return 0;
}
