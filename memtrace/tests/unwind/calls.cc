// Copies pages in constructors, destructors, catch blocks, virtual functions and callbacks, each at
// the instruction `copy_here`: see calls.c.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define FUNCTION __attribute__((noinline, noclone))

static char *memory;
static long used;
static volatile long sink;

extern "C" FUNCTION void touch()
{
    char *page = memory + 4096 * used++;
    __asm__ volatile(".globl copy_here\ncopy_here: movb $2, (%0)" : : "r"(page) : "memory");
}

struct Guard {
    long number;
    explicit FUNCTION Guard(long number) : number(number) { touch(); sink += number; }
    FUNCTION ~Guard() { touch(); sink += number; }
};

struct Base {
    virtual ~Base() = default;
    virtual void act(int depth) = 0;
};

struct Left : Base {
    Base *other = nullptr;
    FUNCTION void act(int depth) override
    {
        touch();
        if (depth > 0)
            other->act(depth - 1);
        sink++;
    }
};

struct Right : Left {
    FUNCTION void act(int depth) override
    {
        volatile char room[300];
        room[0] = 1;
        if (depth > 0)
            other->act(depth - 1);
        touch();
        sink += room[0];
    }
};

static FUNCTION void thrower(int depth)
{
    Guard guard(depth);
    if (depth == 0)
        throw std::runtime_error("thrown");
    thrower(depth - 1);
    sink++;
}

static FUNCTION void catcher()
{
    try {
        thrower(8);
    } catch (const std::exception &error) {
        touch();
        sink += std::strlen(error.what());
    }
}

static FUNCTION void sorter()
{
    std::vector<int> numbers(200);
    for (int n = 0; n < 200; n++)
        numbers[n] = (n * 37) % 200;
    std::sort(numbers.begin(), numbers.end(), [](int a, int b) {
        if (sink++ % 64 == 0)
            touch();
        return a < b;
    });
    std::function<void(int)> nested = [&](int depth) {
        touch();
        if (depth > 0)
            nested(depth - 1);
        sink++;
    };
    nested(12);
}

int main(int count, char **)
{
    const long size = 1024 * 4096;
    memory = static_cast<char *>(mmap(nullptr, size, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    madvise(memory, size, MADV_NOHUGEPAGE);
    std::memset(memory, 1, size);
    if (count > 1)
        sleep(1);
    pid_t child = fork();
    if (child == 0) {
        Left left;
        Right right;
        left.other = &right;
        right.other = &left;
        left.act(20);
        catcher();
        sorter();
        std::fflush(stdout);
        _exit(0);
    }
    waitpid(child, nullptr, 0);
}
