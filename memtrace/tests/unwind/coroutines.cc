// A child copies pages in a coroutine, which runs on the stack of whoever resumes it.
#include <coroutine>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define FUNCTION __attribute__((noinline))

static constexpr long PAGE = 4096, PAGES = 1200;
static char *memory;
static volatile long sink;

struct Task {
    struct promise_type {
        Task get_return_object()
        {
            return {std::coroutine_handle<promise_type>::from_promise(*this)};
        }
        std::suspend_always initial_suspend() noexcept { return {}; }
        std::suspend_always final_suspend() noexcept { return {}; }
        void return_void() {}
        void unhandled_exception() { std::abort(); }
    };
    std::coroutine_handle<promise_type> handle;
};

extern "C" FUNCTION void touch_at(long page)
{
    static_cast<volatile char *>(memory)[page * PAGE] = 2;
    sink = page;
}

static Task work()
{
    for (long page = 0; page < PAGES; page++) {
        touch_at(page);
        if (page % 10 == 0)
            co_await std::suspend_always{};
    }
}

extern "C" FUNCTION void resumes()
{
    Task task = work();
    while (!task.handle.done())
        task.handle.resume();
    sink = 0;
}

int main()
{
    memory = static_cast<char *>(mmap(nullptr, PAGES * PAGE, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    madvise(memory, PAGES * PAGE, MADV_NOHUGEPAGE);
    memset(memory, 1, PAGES * PAGE);
    std::printf("{\"ready\": {\"pid\": %d}}\n", getpid());
    std::fflush(stdout);
    char line[100];
    if (!std::fgets(line, sizeof line, stdin))
        return 1;
    if (fork() == 0) {
        resumes();
        usleep(200000);
        _exit(0);
    }
    wait(nullptr);
    std::printf("{\"done\": {}}\n");
    std::fflush(stdout);
    while (std::fgets(line, sizeof line, stdin))
        ;
    return 0;
}
