// A model server that costs next to nothing, for benches: one epoll, answers made beforehand, paced event streams.
//
// It prints its port and ends when its stdin does. A streamed request whose text says `chunks=N interval_us=M` is
// answered with N chunks, one every M microseconds, each with the monotonic time at which it was sent; any other POST to
// .../images/generations or .../txt2img with a picture of 2 MB (in A1111's the prompt stands beside the pixels), every
// other POST with a short chat answer, every GET with one body.
// Trusts the framing of its requests: Content-Length only.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FD = 8192, IN_BYTES = 1 << 16, PICTURE_BYTES = 2000000, WORD_BYTES = 512, TEXT_BYTES = 23 };

typedef struct {
    int open, left;            // left: chunks still to be sent
    double due, interval;      // seconds, CLOCK_MONOTONIC
    char *in;
    size_t in_size;
    char *out;                 // what the kernel did not take yet
    size_t out_size, out_at;
} Client;

static Client clients[MAX_FD];
static int streaming[MAX_FD], streams, poll_fd;
static char whole[1024], models[512], opening[1024], closing[1024], *picture, *a1111;
static size_t whole_size, models_size, opening_size, closing_size, picture_size, a1111_size;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static size_t response(char *into, const char *body) {
    return sprintf(into, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
}

static size_t chunk(char *into, const char *event) { return sprintf(into, "%zx\r\n%s\r\n", strlen(event), event); }

#define EVENT(delta, finish) \
    "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"m\"," \
    "\"choices\":[{\"index\":0,\"delta\":" delta ",\"finish_reason\":" finish "}]}\n\n"

static size_t base64(char *into, const unsigned char *raw, size_t size) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < size; i += 3, into += 4) {
        unsigned bits = raw[i] << 16 | raw[i + 1] << 8 | raw[i + 2];
        into[0] = digits[bits >> 18], into[1] = digits[bits >> 12 & 63];
        into[2] = digits[bits >> 6 & 63], into[3] = digits[bits & 63];
    }
    return size / 3 * 4;
}

static unsigned char *put_chunk(unsigned char *at, const char *name, const char *data, size_t size) {
    unsigned char length[4] = {size >> 24, size >> 16, size >> 8, size};
    memcpy(at, length, 4), memcpy(at + 4, name, 4);
    if (data) memcpy(at + 8, data, size);
    return at + 12 + size;
}

// A PNG as far as its chunks go: IHDR, text if there is any, one IDAT of zeros, IEND.
static size_t picture_answer(char **answer, const char *before, const char *text, const char *after) {
    unsigned char *raw = calloc(1, PICTURE_BYTES), *at = raw + 8;
    size_t bytes = PICTURE_BYTES / 4 * 3, text_bytes = *text ? TEXT_BYTES + 12 : 0;
    memcpy(raw, "\x89PNG\r\n\x1a\n", 8);
    at = put_chunk(at, "IHDR", "\0\0\2\0\0\0\2\0\x08\6\0\0\0", 13);
    if (*text) at = put_chunk(at, "tEXt", text, TEXT_BYTES);
    at = put_chunk(at, "IDAT", NULL, bytes - 33 - text_bytes - 12 - 12);
    put_chunk(at, "IEND", NULL, 0);
    char *body = malloc(PICTURE_BYTES + 256);
    size_t size = sprintf(body, "%s", before);
    size += base64(body + size, raw, bytes);
    strcpy(body + size, after);
    free(raw);
    *answer = malloc(PICTURE_BYTES + 512);
    size = response(*answer, body);
    free(body);
    return size;
}

static void prepare(void) {
    whole_size = response(whole, "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"m\","
        "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"A lighthouse stands on the long coast and"
        " counts the ships.\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":12,"
        "\"total_tokens\":24}}");
    models_size = response(models, "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\",\"created\":1700000000,\"owned_by\":\"bench\"}]}");
    opening_size = sprintf(opening, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
    opening_size += chunk(opening + opening_size, EVENT("{\"role\":\"assistant\",\"content\":\"\"}", "null"));
    closing_size = chunk(closing, EVENT("{}", "\"stop\""));
    closing_size += chunk(closing + closing_size, "data: [DONE]\n\n");
    closing_size += sprintf(closing + closing_size, "0\r\n\r\n");
    picture_size = picture_answer(&picture, "{\"created\":1700000000,\"data\":[{\"b64_json\":\"", "", "\"}]}");
    a1111_size = picture_answer(&a1111, "{\"images\":[\"", "parameters\0a lighthouse", "\"],\"parameters\":{},\"info\":\"{}\"}");
}

static void watch(int fd, int writable) {
    struct epoll_event event = {EPOLLIN | (writable ? EPOLLOUT : 0), {.fd = fd}};
    epoll_ctl(poll_fd, EPOLL_CTL_MOD, fd, &event);
}

static void drop(int fd) {
    Client *c = &clients[fd];
    free(c->in), free(c->out);
    memset(c, 0, sizeof *c);
    close(fd);
}

static void flush(int fd) {
    Client *c = &clients[fd];
    ssize_t sent = send(fd, c->out + c->out_at, c->out_size - c->out_at, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) { drop(fd); return; }
    if (sent > 0) c->out_at += sent;
    if (c->out_at == c->out_size) { c->out_size = c->out_at = 0; watch(fd, 0); }
}

static void put(int fd, const char *data, size_t size) {
    Client *c = &clients[fd];
    if (!c->open) return;
    if (!c->out_size) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) { drop(fd); return; }
        if (sent > 0) data += sent, size -= sent;
        if (!size) return;
        watch(fd, 1);
    }
    c->out = realloc(c->out, c->out_size + size);
    memcpy(c->out + c->out_size, data, size);
    c->out_size += size;
}

static void answer(int fd, const char *head, const char *body, size_t body_size) {
    Client *c = &clients[fd];
    if (strncmp(head, "POST ", 5)) { put(fd, models, models_size); return; }
    char *line = memmem(head, 200, "\r\n", 2);
    if (line && memmem(head, line - head, "/images/generations", 19)) { put(fd, picture, picture_size); return; }
    if (line && memmem(head, line - head, "/txt2img", 8)) { put(fd, a1111, a1111_size); return; }
    const char *stream = memmem(body, body_size, "\"stream\"", 8), *pace = memmem(body, body_size, "chunks=", 7);
    int chunks;
    long interval;
    if (!stream || strncmp(stream + 8 + strspn(stream + 8, ": "), "true", 4) || !pace
        || sscanf(pace, "chunks=%d interval_us=%ld", &chunks, &interval) != 2) {
        put(fd, whole, whole_size);
        return;
    }
    put(fd, opening, opening_size);
    c->left = chunks, c->interval = interval / 1e6, c->due = now() + c->interval;
    streaming[streams++] = fd;
}

static void take(int fd) {
    Client *c = &clients[fd];
    ssize_t got = recv(fd, c->in + c->in_size, IN_BYTES - c->in_size, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) { drop(fd); return; }
    c->in_size += got;
    while (c->open && c->in_size) {
        char *end = memmem(c->in, c->in_size, "\r\n\r\n", 4);
        if (!end) return;
        size_t head = end - c->in + 4, length = 0;
        for (char *at = c->in; at && at < end; at = memmem(at, end - at, "\r\n", 2) ? (char *)memmem(at, end - at, "\r\n", 2) + 2 : NULL)
            if (!strncasecmp(at, "content-length:", 15)) length = strtoul(at + 15, NULL, 10);
        if (c->in_size < head + length) return;
        answer(fd, c->in, c->in + head, length);
        if (!c->open) return;
        memmove(c->in, c->in + head + length, c->in_size - head - length);
        c->in_size -= head + length;
    }
}

static double send_due(void) {
    double at = now(), next = at + 1;
    for (int i = 0; i < streams;) {
        int fd = streaming[i];
        Client *c = &clients[fd];
        if (c->open && c->left && c->due <= at) {
            char text[WORD_BYTES], framed[WORD_BYTES + 16];
            snprintf(text, sizeof text, EVENT("{\"content\":\"t%017.6f\"}", "null"), now());
            put(fd, framed, chunk(framed, text));
            c->due += c->interval;
            if (c->open && !--c->left) put(fd, closing, closing_size);
        }
        if (!c->open || !c->left) { streaming[i] = streaming[--streams]; continue; }
        if (c->due < next) next = c->due;
        i++;
    }
    return next - now();
}

int main(void) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    prepare();
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 1024)) return 1;
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    poll_fd = epoll_create1(0);
    struct epoll_event event = {EPOLLIN, {.fd = listener}}, input = {EPOLLIN, {.fd = 0}}, events[256];
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, listener, &event);
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, 0, &input);
    for (;;) {
        double wait = send_due();
        int count = epoll_wait(poll_fd, events, 256, wait <= 0 ? 0 : (int)(wait * 1000) + (streams ? 0 : 1));
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == 0) return 0;
            if (fd == listener) {
                int accepted = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                if (accepted < 0) continue;
                if (accepted >= MAX_FD) { close(accepted); continue; }
                setsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                clients[accepted] = (Client){.open = 1, .in = malloc(IN_BYTES)};
                struct epoll_event new = {EPOLLIN, {.fd = accepted}};
                epoll_ctl(poll_fd, EPOLL_CTL_ADD, accepted, &new);
                continue;
            }
            if (events[i].events & EPOLLOUT) flush(fd);
            if (clients[fd].open && events[i].events & ~EPOLLOUT) take(fd);
        }
    }
}
