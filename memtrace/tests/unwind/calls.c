/* Copies pages on stacks of all kinds, each at the instruction `copy_here`, one page at a time: what a
 * debugger that stops there sees is what memtrace has to report. Compiled without frame pointers.
 *
 * The parent fills the pages and waits a while; one child runs all cases. */
#define _GNU_SOURCE
#include <alloca.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define FUNCTION __attribute__((noinline, noclone))
#define PAGE 4096L
#define PAGES 4096L

static char *memory;
static long used;
static volatile long sink;

/* Copies a page. */
FUNCTION void touch(void)
{
    char *page = memory + PAGE * used++;
    __asm__ volatile(".globl copy_here\ncopy_here: movb $2, (%0)" : : "r"(page) : "memory");
}

/* A library that is called through the procedure linkage table. */
extern void library_calls(void (*)(void), int);

typedef void (*action)(void);

/* Frames of many sizes. */
static void descend(int depth, action then);
#define FRAME(name, size)                       \
    static FUNCTION void name(int depth, action then) \
    {                                           \
        volatile char room[size];               \
        room[0] = (char)depth;                  \
        room[size - 1] = 1;                     \
        descend(depth - 1, then);               \
        sink += room[0];                        \
    }
FRAME(tiny, 1)
FRAME(small, 40)
FRAME(middle, 1000)
FRAME(large, 70000)

static FUNCTION void descend(int depth, action then)
{
    if (depth <= 0) {
        then();
        sink++;
        return;
    }
    switch (depth % 8) {
    case 0: small(depth, then); break;
    case 3: middle(depth, then); break;
    case 5: if (depth < 30) { large(depth, then); break; } /* fall through */
    default: tiny(depth, then);
    }
    sink++;
}

static FUNCTION void touch_several(void)
{
    for (int n = 0; n < 5; n++) {
        touch();
        sink++;
    }
}

/* The size of the frame is only known when it runs. */
static FUNCTION void with_alloca(int size)
{
    volatile char *room = alloca(size);
    room[size - 1] = 1;
    touch();
    if (size > 64)
        with_alloca(size / 2);
    sink += room[size - 1];
}

static FUNCTION void with_array(int size)
{
    volatile long room[size];
    room[size - 1] = 7;
    descend(3, touch_several);
    sink += room[size - 1];
}

/* Frames that have to be aligned more than the stack is. */
static FUNCTION void aligned(int depth)
{
    volatile char room[128] __attribute__((aligned(64)));
    room[0] = 1;
    touch();
    if (depth > 0)
        aligned(depth - 1);
    sink += room[0];
}

__attribute__((force_align_arg_pointer)) FUNCTION void realigned(int depth)
{
    volatile char room[64] __attribute__((aligned(32)));
    room[0] = 1;
    touch();
    if (depth > 0)
        realigned(depth - 1);
    sink += room[0];
}

/* A call that is a jump leaves no frame. */
static FUNCTION void tail_end(int n)
{
    touch();
    sink += n;
}

static FUNCTION void tail(int n)
{
    sink += n;
    tail_end(n + 1);
}

static int compare(const void *a, const void *b)
{
    if (sink++ % 4 == 0)
        touch();
    return *(const int *)a - *(const int *)b;
}

static FUNCTION void callbacks(void)
{
    int numbers[40];
    for (int n = 0; n < 40; n++)
        numbers[n] = (n * 7) % 40;
    qsort(numbers, 40, sizeof *numbers, compare);
    int wanted = 11;
    sink += bsearch(&wanted, numbers, 40, sizeof *numbers, compare) != NULL;
}

static void handler(int number)
{
    sink += number;
    descend(4, touch_several);
}

/* Goes on behind the instruction that is none. */
static void skipper(int number, siginfo_t *info, void *context)
{
    (void)info;
    handler(number);
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2;
}

static FUNCTION void interrupted(int flags)
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
    sink++;
    /* In the middle of the program's own code. */
    action = (struct sigaction){.sa_sigaction = skipper, .sa_flags = flags | SA_SIGINFO};
    sigaction(SIGILL, &action, NULL);
    __asm__ volatile("ud2" : : : "memory");
    sink++;
}

static FUNCTION void on_another_stack(void)
{
    static char room[64 << 10];
    stack_t stack = {.ss_sp = room, .ss_size = sizeof room};
    sigaltstack(&stack, NULL);
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
    sigaction(SIGUSR2, &action, NULL);
    raise(SIGUSR2);
    sink++;
}

static void *thread(void *unused)
{
    descend(10, touch_several);
    return unused;
}

static FUNCTION void in_a_thread(void)
{
    pthread_t other;
    pthread_create(&other, NULL, thread, NULL);
    pthread_join(other, NULL);
}

static FUNCTION void cases(void)
{
    descend(5, touch_several);
    descend(20, touch_several);
    descend(50, touch_several);
    with_alloca(3000);
    with_array(50);
    aligned(4);
    realigned(4);
    tail(3);
    callbacks();
    library_calls(touch_several, 6);
    interrupted(0);
    on_another_stack();
    in_a_thread();
}

int main(int count, char **arguments)
{
    (void)arguments;
    memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(memory, PAGES * PAGE, MADV_NOHUGEPAGE);
    memset(memory, 1, PAGES * PAGE);
    long *copied = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (count > 1)
        sleep(1);
    pid_t child = fork();
    if (child == 0) {
        cases();
        *copied = used;
        _exit(0);
    }
    waitpid(child, NULL, 0);
    printf("copied %ld\n", *copied);
    return 0;
}
