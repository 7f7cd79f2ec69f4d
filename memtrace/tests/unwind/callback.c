/* A library that is compiled without unwind tables: its function calls back through frames of several
 * sizes, some of them with a switch and with room of a size that is not known before. */
#include <string.h>

#define FUNCTION __attribute__((noinline, noclone))

static volatile long sink;

static FUNCTION void use(volatile char *room, int size)
{
    for (int n = 0; n < size; n++)
        sink += room[n] = (char)n;
}

static FUNCTION void small(int depth, void (*back)(void));

static FUNCTION void large(int depth, void (*back)(void))
{
    char room[3000];
    use(room, sizeof room);
    small(depth - 1, back);
    use(room, sizeof room);
}

static FUNCTION void sized(int depth, void (*back)(void))
{
    char *room = __builtin_alloca(depth * 24);
    use(room, depth);
    small(depth - 1, back);
    use(room, depth);
}

static FUNCTION void small(int depth, void (*back)(void))
{
    switch (depth) {
    case 40:
    case 31:
    case 5:
        large(depth, back);
        break;
    case 38:
    case 20:
    case 6:
        sized(depth, back);
        sink += 3;
        break;
    case 33:
        sink += 2;
        small(depth - 1, back);
        break;
    case 0:
        back();
        break;
    default:
        small(depth - 1, back);
    }
    sink++;
}

void calls_back(int depth, void (*back)(void))
{
    small(depth, back);
    sink++;
}
