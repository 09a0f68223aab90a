/* The plain loop that tcp_crr is held against: connect, request, response, close, and nothing else.
 *
 *     crr_loop PORT BYTES                server: accept, recv, send, close, until killed
 *     crr_loop PORT BYTES MILLISECONDS   client: prints transactions, mean, p50 and p99 in us
 */
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MOST 10000000
#define ROOM 65536

static char room[ROOM];

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int fail(const char *call)
{
    perror(call);
    return 1;
}

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static int serve(const struct sockaddr_in *address, size_t bytes)
{
    static const int on = 1;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (const struct sockaddr *)address, sizeof *address) || listen(listener, SOMAXCONN))
        return fail("listen");
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0)
            return fail("accept");
        if (recv(fd, room, bytes, MSG_WAITALL) == (ssize_t)bytes)
            send(fd, room, bytes, MSG_NOSIGNAL);
        close(fd);
    }
}

static int transact(const struct sockaddr_in *address, size_t bytes)
{
    ssize_t n, heard = 0;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)address, sizeof *address))
        return fail("connect");
    if (send(fd, room, bytes, MSG_NOSIGNAL) != (ssize_t)bytes)
        return fail("send");
    while ((n = recv(fd, room, ROOM, 0)) > 0)
        heard += n;
    close(fd);
    return heard == (ssize_t)bytes ? 0 : fail("recv");
}

static int ask(const struct sockaddr_in *address, size_t bytes, uint64_t ms)
{
    uint64_t *took = malloc(MOST * sizeof *took);
    uint64_t begin = now_ns(), before = begin, now = begin;
    size_t n = 0;
    for (; took && n < MOST && now < begin + ms * 1000000; n++, before = now) {
        if (transact(address, bytes))
            return 1;
        now = now_ns();
        took[n] = now - before;
    }
    qsort(took, n, sizeof *took, by_size);
    printf("%zu %.3f %.3f %.3f\n", n, (double)(now - begin) / (double)n / 1000, (double)took[n / 2] / 1000,
           (double)took[n * 99 / 100] / 1000);
    return 0;
}

int main(int count, char **words)
{
    if (count < 3)
        return fprintf(stderr, "crr_loop PORT BYTES [MILLISECONDS]\n"), 2;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(words[1]))};
    size_t bytes = (size_t)atoi(words[2]);
    if (bytes < 1 || bytes > ROOM)
        return fprintf(stderr, "crr_loop: 1 to %d bytes, not %s\n", ROOM, words[2]), 2;
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    return count == 3 ? serve(&address, bytes) : ask(&address, bytes, strtoull(words[3], NULL, 10));
}
