/* Programs for tests of unwinding that need no debugger: the first argument says which. Says that it is
 * ready, waits for a line, does it, says so, and ends with its input. No frame pointers. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define FUNCTION __attribute__((noinline, noclone))
#define PAGE 4096L
#define PAGES 2048L

static char *memory;
static volatile long sink;

FUNCTION void touch_at(long page)
{
    ((volatile char *)memory)[page * PAGE] = 2;
}

static FUNCTION void descend(int depth, long page)
{
    volatile char room[48];
    room[0] = 1;
    if (depth > 0)
        descend(depth - 1, page);
    else
        touch_at(page);
    sink += room[0];
}

static void touch_some(void)
{
    static long next = 0;
    for (int n = 0; n < 50; n++)
        descend(3, next++);
}

/* Each child copies a page, before anything else. */
static FUNCTION void children(int count)
{
    for (int n = 0; n < count; n++)
        if (fork() == 0) {
            descend(20, n);
            _exit(0);
        }
    while (wait(NULL) > 0)
        ;
}

/* Code that was made at run time and calls what it is given: with a frame pointer, and with something else in
 * its register. */
static const unsigned char with_frame_pointer[] = {0x55, 0x48, 0x89, 0xe5, 0xff, 0xd7, 0x5d, 0xc3};
static const unsigned char without[] = {0x55, 0xbd, 0x01, 0x00, 0x00, 0x00, 0xff, 0xd7, 0x5d, 0xc3};

static FUNCTION void made_code(const unsigned char *code, size_t size)
{
    void *place = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(place, code, size);
    mprotect(place, PAGE, PROT_READ | PROT_EXEC);
    if (fork() == 0) {
        /* The first time finds the mapping, which is new. */
        ((void (*)(void (*)(void)))place)(touch_some);
        usleep(700000);
        ((void (*)(void (*)(void)))place)(touch_some);
        usleep(200000);
        _exit(0);
    }
    wait(NULL);
}

/* A library that is loaded while traced: its first stacks cannot be known to the end. */
static FUNCTION void late_library(const char *path)
{
    if (fork() == 0) {
        void *library = dlopen(path, RTLD_NOW);
        void (*calls)(void (*)(void), int) = (void (*)(void (*)(void), int))dlsym(library, "library_calls");
        calls(touch_some, 4);
        usleep(700000);
        for (int round = 0; round < 10; round++)
            calls(touch_some, 4);
        usleep(200000);
        _exit(0);
    }
    wait(NULL);
}

static FUNCTION void copies_bytes(void)
{
    static char source[20 * PAGE];
    memcpy(memory, source + (sink & 1), sizeof source - 1);
    sink++;
}

static FUNCTION void sets_bytes(void)
{
    memset(memory + 20 * PAGE, 3 + (int)(sink & 1), 20 * PAGE);
    sink++;
}

static FUNCTION void copies_text(const char *text)
{
    for (int n = 0; n < 20; n++)
        strcpy(memory + (40 + n) * PAGE, text);
    sink++;
}

static void *blocks[40000];

static FUNCTION void frees_blocks(void)
{
    for (int n = 0; n < 40000; n++)
        free(blocks[n]);
    sink++;
}

static FUNCTION void library_functions(void)
{
    char text[8] = "memory";
    text[0] = (char)('a' + (sink & 3));
    for (int n = 0; n < 40000; n++)
        memset(blocks[n] = malloc(100), 1, 100);
    if (fork() == 0) {
        copies_bytes();
        sets_bytes();
        copies_text(text);
        frees_blocks();
        usleep(200000);
        _exit(0);
    }
    wait(NULL);
}

int main(int count, char **arguments)
{
    memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(memory, PAGES * PAGE, MADV_NOHUGEPAGE);
    memset(memory, 1, PAGES * PAGE);
    printf("{\"ready\": {\"pid\": %d}}\n", getpid());
    fflush(stdout);
    char line[100];
    if (!fgets(line, sizeof line, stdin) || count < 2)
        return 1;
    if (strcmp(arguments[1], "children") == 0)
        children(100);
    else if (strcmp(arguments[1], "made-code") == 0)
        made_code(with_frame_pointer, sizeof with_frame_pointer);
    else if (strcmp(arguments[1], "made-code-without") == 0)
        made_code(without, sizeof without);
    else if (strcmp(arguments[1], "late-library") == 0)
        late_library(arguments[2]);
    else if (strcmp(arguments[1], "library-functions") == 0)
        library_functions();
    printf("{\"done\": {}}\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin))
        ;
    return 0;
}
