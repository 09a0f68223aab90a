/* Preloaded under a test build of the disk engine: every EVERY-th operation ends with RESULT, whatever it did. */
#include <stdint.h>
#include <stdlib.h>

int32_t cvmprobe_disk_result(uint32_t operation, int32_t result)
{
    static long every, instead;
    static _Atomic long seen;
    (void)operation;
    if (!every) {
        every = strtol(getenv("EVERY"), NULL, 0);
        instead = strtol(getenv("RESULT"), NULL, 0);
    }
    return ++seen % every ? result : (int32_t)instead;
}
