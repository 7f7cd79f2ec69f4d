/* Takes the first keys of thread-local values, before the interpreter asks for one. */
#include <pthread.h>

__attribute__((constructor)) static void take(void) {
    pthread_key_t key;
    for (int i = 0; i < 40; i++)
        pthread_key_create(&key, 0);
}
