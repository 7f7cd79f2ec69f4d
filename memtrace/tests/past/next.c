/* What the children of forks.c become: where that program has its functions, this one has many others. It
 * copies next to nothing. */
#include <unistd.h>

#define FUNCTION(name)                                                                                             \
    __attribute__((noinline, noclone)) void b_##name(volatile char *place)                                         \
    {                                                                                                              \
        place[0] = (char)__COUNTER__;                                                                              \
        place[1] = (char)__COUNTER__;                                                                              \
    }
#define EACH(name, what) what(name##0) what(name##1) what(name##2) what(name##3) what(name##4) what(name##5)       \
    what(name##6) what(name##7) what(name##8) what(name##9)
#define TEN(name) EACH(name, FUNCTION)
#define CALL(name) b_##name(place);
#define CALLS(name) EACH(name, CALL)

TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) TEN(6) TEN(7) TEN(8) TEN(9) TEN(10) TEN(11) TEN(12) TEN(13) TEN(14) TEN(15)

int main(void)
{
    volatile char place[2];
    CALLS(1) CALLS(2) CALLS(3) CALLS(4) CALLS(5) CALLS(6) CALLS(7) CALLS(8) CALLS(9) CALLS(10) CALLS(11)
    CALLS(12) CALLS(13) CALLS(14) CALLS(15)
    return 0;
}
