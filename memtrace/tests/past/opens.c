/* A program that opens a library after it has begun, and a child that copies pages in it when nobody can
 * look any more.
 *
 *     opens LIBRARY
 *
 * It is started by memtrace, stops that, and is gone with its child before it goes on. With -DLIBRARY
 * this is the library. */
#include <dlfcn.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096L
#define PAGES 300L

#ifdef LIBRARY
void in_library(char *memory)
{
    for (long page = 0; page < PAGES; page++)
        ((volatile char *)memory)[page * PAGE] = 2;
}
#else
int main(int count, char **arguments)
{
    pid_t memtrace = getppid();
    char *memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(memory, PAGES * PAGE, MADV_NOHUGEPAGE);
    memset(memory, 1, PAGES * PAGE);
    /* Its mappings are known as they are now. */
    usleep(300000);
    void *library = count == 2 ? dlopen(arguments[1], RTLD_NOW) : NULL;
    void (*in_library)(char *) = library ? (void (*)(char *))dlsym(library, "in_library") : NULL;
    if (!in_library)
        return 1;
    usleep(1000000);
    kill(memtrace, SIGSTOP);
    if (fork() == 0) {
        in_library(memory);
        _exit(0);
    }
    wait(NULL);
    if (fork() == 0) {
        usleep(300000);
        kill(memtrace, SIGCONT);
        _exit(0);
    }
    return 0;
}
#endif
