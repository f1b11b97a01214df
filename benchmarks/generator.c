/* A load generator: prepared frames over many connections, one epoll loop, one line of JSON.

   generator port=6555 [name=value ...]; the names are those of `struct options`, with their defaults. There are four
   workloads: `get` and `set` of random keys out of `keys` for `seconds`; `load`, which sets each key once; and `script`,
   which calls EVALSHA once for each key, with its value as argument, and needs the protocol RESP. There are three
   protocols: native, RESP and memcached's text protocol, so all peers are measured with the same generator.

   With `rate=0`, each connection sends its next `depth` commands after the replies to the last ones. With a rate
   (commands per second of all connections), each command has a scheduled time, and its latency counts from this time, so
   a stall of the server counts. The generator then polls without sleeping, so that it is never late itself. With
   `poll=0` it sleeps until the next scheduled time, and may wake up late, if others need the processor.

   Replies in the first `warmup` seconds do not count. With several ports, of the nodes of one cluster, the connections
   are distributed over them.

   Invariants: the generator connects to 127.0.0.1 only. An unexpected reply (a miss, an error, a wrong length) ends the
   run with exit code 1. The clock stops after the reply to the last command, so rates and the server's CPU time (`pid`;
   the kernel's clocks of these processes) cover the same commands.

   benchmarks/bench.py builds and runs this program. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define KEY_BYTES 16
#define POOL_BYTES (64 << 20)   /* prepared frames of all keys, at most */
#define RECEIVE_BYTES (1 << 20) /* per receive */
#define EVENTS_MAX 256
#define LIST_MAX 16 /* ports, processes */
#define PATIENCE_NS 30000000000 /* timeout without a reply */

struct list {
    int count;
    int items[LIST_MAX];
};

static struct options {
    const char *protocol; /* native, resp or memcached */
    const char *work; /* get, set, load or script */
    const char *sha;  /* of the script, which replies with the integer 1 */
    struct list port;
    int connections;
    int depth; /* commands in a pipeline */
    long keys;
    long value; /* bytes */
    double warmup;  /* seconds that do not count */
    double seconds;
    double rate;     /* commands per second; 0: as many as possible */
    int poll;        /* with a rate: without sleeping */
    int local;       /* local reads: flag 0x01 of the header */
    struct list pid; /* of the server; none: do not measure its CPU time */
} options = {"native", "get", NULL, {0}, 50, 1, 100000, 32, 0.0, 1.0, 0.0, 1, 0, {0}};

static bool writes;  /* SET, not GET */
static bool scripts; /* EVALSHA */
static bool once;    /* each key once, not random ones for some time */

static void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("generator: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

/* Parse integers separated by commas. */
static struct list read_list(const char *text)
{
    struct list list = {0};
    for (char *end; *text != '\0'; text = *end == ',' ? end + 1 : end) {
        long item = strtol(text, &end, 10);
        if (end == text || (*end != ',' && *end != '\0'))
            die("not a list of numbers: %s", text);
        if (list.count == LIST_MAX)
            die("a list has at most %d numbers", LIST_MAX);
        list.items[list.count++] = item;
    }
    return list;
}

static void read_options(int count, char **words)
{
    for (int i = 1; i < count; i++) {
        char *value = strchr(words[i], '=');
        if (value == NULL)
            die("not name=value: %s", words[i]);
        *value++ = '\0';
        if (!strcmp(words[i], "protocol")) options.protocol = value;
        else if (!strcmp(words[i], "work")) options.work = value;
        else if (!strcmp(words[i], "sha")) options.sha = value;
        else if (!strcmp(words[i], "port")) options.port = read_list(value);
        else if (!strcmp(words[i], "connections")) options.connections = atoi(value);
        else if (!strcmp(words[i], "depth")) options.depth = atoi(value);
        else if (!strcmp(words[i], "keys")) options.keys = atol(value);
        else if (!strcmp(words[i], "value")) options.value = atol(value);
        else if (!strcmp(words[i], "warmup")) options.warmup = atof(value);
        else if (!strcmp(words[i], "seconds")) options.seconds = atof(value);
        else if (!strcmp(words[i], "rate")) options.rate = atof(value);
        else if (!strcmp(words[i], "poll")) options.poll = atoi(value);
        else if (!strcmp(words[i], "local")) options.local = atoi(value);
        else if (!strcmp(words[i], "pid")) options.pid = read_list(value);
        else die("unknown option: %s", words[i]);
    }
    if (options.port.count < 1 || options.connections < 1 || options.depth < 1 || options.keys < 1 || options.value < 1)
        die("port, connections, depth, keys and value are at least 1");
    if (options.rate > 0 && options.depth != 1)
        die("a rate is for single commands: depth=1");
    scripts = !strcmp(options.work, "script");
    once = scripts || !strcmp(options.work, "load");
    if (scripts && (options.sha == NULL || strcmp(options.protocol, "resp") != 0))
        die("scripts need their sha, and the protocol resp");
    if (options.local && strcmp(options.protocol, "native") != 0)
        die("local reads need the native protocol");
}

/* -- time ------------------------------------------------------------------------------------------------------- */

static int64_t read_clock(clockid_t clock)
{
    struct timespec time;
    if (clock_gettime(clock, &time) < 0)
        die("cannot read a clock: %s", strerror(errno));
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static int64_t now_ns(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

/* Return the CPU time of the server's processes: user and system, all threads. */
static int64_t server_cpu_ns(void)
{
    static clockid_t clocks[LIST_MAX];
    int64_t sum = 0;
    for (int i = 0; i < options.pid.count; i++) {
        if (clocks[i] == 0 && clock_getcpuclockid(options.pid.items[i], clocks + i) != 0)
            die("there is no process %d", options.pid.items[i]);
        sum += read_clock(clocks[i]);
    }
    return sum;
}

/* A histogram of nanoseconds with 128 steps per doubling: percentiles are exact within 1 %. */
#define STEP_BITS 7
static long histogram[64 << STEP_BITS], recorded;

static void record(int64_t ns)
{
    uint64_t value = ns < 1 << STEP_BITS ? 1 << STEP_BITS : ns;
    int shift = 63 - STEP_BITS - __builtin_clzll(value);
    histogram[((uint64_t)shift << STEP_BITS) + (value >> shift)]++;
    recorded++;
}

/* Return a percentile of the latency in microseconds. */
static double percentile(double part)
{
    long left = (long)(recorded * part);
    for (uint64_t at = 0; at < sizeof histogram / sizeof *histogram; at++)
        if ((left -= histogram[at]) < 0) {
            int shift = at < 2 << STEP_BITS ? 0 : (int)(at >> STEP_BITS) - 1;
            return (double)((at - ((uint64_t)shift << STEP_BITS)) << shift) / 1000;
        }
    return 0;
}

/* -- frames ----------------------------------------------------------------------------------------------------- */

static char head[64]; /* the beginning of each reply */
static size_t head_bytes, reply_bytes;

static size_t be32(char *at, uint32_t number)
{
    number = htonl(number);
    memcpy(at, &number, 4);
    return 4;
}

/* Write one command; return its length. */
static size_t put_command(char *at, long number)
{
    char key[KEY_BYTES + 1], *begin = at;
    snprintf(key, sizeof key, "key:%012ld", number);
    switch (options.protocol[0]) {
    case 'n':
        at = mempcpy(at, writes ? "\0\0\1" : options.local ? "\1\0\0" : "\0\0\0", 3); /* header, two-byte number */
        at += be32(at, KEY_BYTES);
        at = mempcpy(at, key, KEY_BYTES);
        if (writes)
            at += be32(at, options.value);
        break;
    case 'r':
        if (scripts)
            at += sprintf(at, "*5\r\n$7\r\nEVALSHA\r\n$40\r\n%s\r\n$1\r\n1\r\n$%d\r\n%s\r\n$%ld\r\n", options.sha, KEY_BYTES, key, options.value);
        else if (writes)
            at += sprintf(at, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%ld\r\n", KEY_BYTES, key, options.value);
        else
            at += sprintf(at, "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", KEY_BYTES, key);
        break;
    default:
        if (writes)
            at += sprintf(at, "set %s 0 0 %ld\r\n", key, options.value);
        else
            at += sprintf(at, "get %s\r\n", key);
    }
    if (writes) {
        memset(at, 'x', options.value);
        at += options.value;
        if (options.protocol[0] != 'n')
            at = mempcpy(at, "\r\n", 2);
    }
    return at - begin;
}

static size_t command_bytes_max(void)
{
    return 150 + (writes ? options.value : 0);
}

static void prepare_reply(void)
{
    writes = strcmp(options.work, "get") != 0;
    if (!strcmp(options.protocol, "native")) {
        memcpy(head, "\0" "0", 2);
        be32(head + 2, writes ? 2 : options.value);
        head_bytes = 6;
        reply_bytes = 6 + (writes ? 2 : options.value);
    } else if (!strcmp(options.protocol, "resp")) {
        head_bytes = scripts ? sprintf(head, ":1\r\n") : writes ? sprintf(head, "+OK\r\n") : sprintf(head, "$%ld\r\n", options.value);
        reply_bytes = head_bytes + (writes ? 0 : options.value + 2);
    } else if (!strcmp(options.protocol, "memcached")) {
        char line[64];
        size_t line_bytes = snprintf(line, sizeof line, "VALUE key:%012d 0 %ld\r\n", 0, options.value);
        head_bytes = writes ? sprintf(head, "STORED\r\n") : sprintf(head, "VALUE key:");
        reply_bytes = writes ? head_bytes : line_bytes + options.value + 2 + 5;
    } else {
        die("unknown protocol: %s", options.protocol);
    }
}

/* Prepare batches of `depth` commands with random keys. */
static char *pool;
static size_t *batch_begins;
static long batches, batch_next;

static void prepare_batches(void)
{
    uint64_t random = 0x9E3779B97F4A7C15; /* the same keys in each run */
    size_t batch_bytes = command_bytes_max() * options.depth, at = 0;
    batches = options.keys / options.depth;
    if (batches > (long)(POOL_BYTES / batch_bytes))
        batches = POOL_BYTES / batch_bytes;
    if (batches < 8)
        batches = 8;
    pool = malloc(batches * batch_bytes);
    batch_begins = malloc((batches + 1) * sizeof *batch_begins);
    if (pool == NULL || batch_begins == NULL)
        die("no memory for %ld batches", batches);
    for (long batch = 0; batch < batches; batch++) {
        batch_begins[batch] = at;
        for (int i = 0; i < options.depth; i++) {
            random ^= random << 13; /* xorshift64: Marsaglia, Journal of Statistical Software 8(14), 2003 */
            random ^= random >> 7;
            random ^= random << 17;
            at += put_command(pool + at, random % options.keys);
        }
    }
    batch_begins[batches] = at;
}

/* -- connections ------------------------------------------------------------------------------------------------ */

struct connection {
    int fd;
    const char *out;
    size_t out_left;
    bool blocked;     /* a part is not sent yet */
    size_t reply_at;  /* received bytes of replies */
    size_t reply_end; /* expected bytes of replies; 0: no command is pending */
    int commands;
    int64_t due;  /* time of sending; with a rate: scheduled time */
    long turns;   /* started batches */
    char *buffer; /* if `once`: each batch is prepared before it is sent */
};

static struct connection *connections;
static int epoll, busy;
static long done, loaded;
static int64_t step_cpu, longest_step_cpu, longest_step_wall;
static bool stopping;

static void watch(struct connection *self, int what, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = self};
    if (epoll_ctl(epoll, what, self->fd, &event) < 0)
        die("cannot watch a connection: %s", strerror(errno));
}

static void connect_all(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    struct rlimit files;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    epoll = epoll_create1(0);
    connections = calloc(options.connections, sizeof *connections);
    for (int i = 0, on = 1; i < options.connections; i++) {
        struct connection *self = connections + i;
        self->fd = socket(AF_INET, SOCK_STREAM, 0);
        address.sin_port = htons(options.port.items[i % options.port.count]);
        if (self->fd < 0 || connect(self->fd, (struct sockaddr *)&address, sizeof address) < 0)
            die("cannot make connection %d: %s", i + 1, strerror(errno));
        setsockopt(self->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        watch(self, EPOLL_CTL_ADD, EPOLLIN);
        if (once && !(self->buffer = malloc(command_bytes_max() * options.depth)))
            die("no memory for connection %d", i + 1);
    }
}

static void push(struct connection *self)
{
    while (self->out_left > 0) {
        ssize_t sent = send(self->fd, self->out, self->out_left, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN && errno != EINTR)
            die("cannot send: %s", strerror(errno));
        if (sent < 0)
            break;
        self->out += sent;
        self->out_left -= sent;
    }
    if (self->blocked != (self->out_left > 0)) {
        self->blocked = !self->blocked;
        watch(self, EPOLL_CTL_MOD, self->blocked ? EPOLLIN | EPOLLOUT : EPOLLIN);
    }
}

/* Send the next batch, if there is one. */
static void begin(struct connection *self, int64_t due)
{
    if (self->buffer != NULL) {
        self->out = self->buffer;
        for (self->commands = 0; self->commands < options.depth && loaded < options.keys; self->commands++)
            self->out_left += put_command(self->buffer + self->out_left, loaded++);
        if (self->commands == 0)
            return;
    } else {
        self->commands = options.depth;
        self->out = pool + batch_begins[batch_next];
        self->out_left = batch_begins[batch_next + 1] - batch_begins[batch_next];
        batch_next = (batch_next + 1) % batches;
    }
    self->reply_at = 0;
    self->reply_end = reply_bytes * self->commands;
    self->due = due;
    self->turns++;
    busy++;
    push(self);
}

/* Return the scheduled time of a connection's next command; the connections alternate. */
static int64_t next_due(struct connection *self, int64_t start)
{
    return start + (int64_t)((self->turns * options.connections + (self - connections)) * (1e9 / options.rate));
}

static void finish(struct connection *self, int64_t start)
{
    int64_t now = now_ns();
    busy--;
    done += self->commands;
    self->reply_end = 0;
    record(now - self->due);
    if (self->buffer != NULL && options.connections == 1) {
        int64_t cpu = server_cpu_ns();
        if (cpu - step_cpu > longest_step_cpu)
            longest_step_cpu = cpu - step_cpu;
        if (now - self->due > longest_step_wall)
            longest_step_wall = now - self->due;
        step_cpu = cpu;
    }
    if (stopping)
        return;
    if (options.rate == 0)
        begin(self, now);
    else if (next_due(self, start) <= now)
        begin(self, next_due(self, start));
}

static void receive(struct connection *self, int64_t start)
{
    static char received[RECEIVE_BYTES];
    ssize_t size = recv(self->fd, received, sizeof received, MSG_DONTWAIT);
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (size <= 0)
        die("the server has closed a connection");
    if ((size_t)size > self->reply_end - self->reply_at)
        die("more came than was asked for");
    if (self->reply_at < head_bytes) {
        size_t known = head_bytes - self->reply_at;
        if (memcmp(received, head + self->reply_at, known < (size_t)size ? known : (size_t)size) != 0)
            die("an unexpected reply: %.*s", size < 80 ? (int)size : 80, received);
    }
    self->reply_at += size;
    if (self->reply_at == self->reply_end)
        finish(self, start);
}

/* Wait for connections that can be read or written; with a rate, until the next scheduled time. */
static int ready(struct epoll_event *events, int64_t due)
{
    int64_t left = options.rate > 0 && !options.poll ? due - now_ns() : 0;
    if (left > 0) {
        struct timespec pause = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
        struct pollfd any = {.fd = epoll, .events = POLLIN};
        ppoll(&any, 1, &pause, NULL);
    }
    return epoll_wait(epoll, events, EVENTS_MAX, options.rate > 0 ? 0 : 1000);
}

/* Start the measurement. */
static struct {
    int64_t wall, cpu, own_cpu;
} began;

static void begin_measuring(void)
{
    done = recorded = 0;
    memset(histogram, 0, sizeof histogram);
    began.cpu = step_cpu = server_cpu_ns();
    began.own_cpu = read_clock(CLOCK_PROCESS_CPUTIME_ID);
    began.wall = now_ns();
}

static void run(int64_t start)
{
    int64_t warm = start + (int64_t)(options.warmup * 1e9), end = warm + (int64_t)(options.seconds * 1e9), last = start;
    struct epoll_event events[EVENTS_MAX];
    long turn = 0; /* with a rate: number of the next command of all connections */
    if (options.rate == 0)
        for (int i = 0; i < options.connections; i++)
            begin(connections + i, now_ns());
    while (busy > 0 || (!stopping && !once)) {
        int count = ready(events, options.rate > 0 ? start + (int64_t)(turn * (1e9 / options.rate)) : 0);
        int64_t now = now_ns();
        if (count > 0)
            last = now;
        if (now - last > PATIENCE_NS)
            die("no reply in %d seconds", (int)(PATIENCE_NS / 1000000000));
        if (warm > start && now >= warm) {
            warm = start;
            begin_measuring();
        }
        if (now >= end && !once)
            stopping = true;
        if (options.rate > 0 && !stopping)
            for (; start + (int64_t)(turn * (1e9 / options.rate)) <= now; turn++) {
                struct connection *self = connections + turn % options.connections;
                if (self->reply_end == 0 && self->turns == turn / options.connections)
                    begin(self, next_due(self, start));
            }
        for (int i = 0; i < count; i++) {
            struct connection *self = events[i].data.ptr;
            if (events[i].events & EPOLLOUT)
                push(self);
            if (events[i].events & ~EPOLLOUT)
                receive(self, start);
        }
    }
}

int main(int count, char **words)
{
    int64_t cpu, own_cpu;
    double seconds;
    read_options(count, words);
    prepare_reply();
    if (!once)
        prepare_batches();
    connect_all();
    prctl(PR_SET_TIMERSLACK, 1); /* nanosecond: wake up at the requested time */
    usleep(20000); /* the server may still accept connections */
    begin_measuring();
    run(began.wall);
    seconds = (now_ns() - began.wall) / 1e9;
    own_cpu = read_clock(CLOCK_PROCESS_CPUTIME_ID) - began.own_cpu;
    usleep(2000); /* the server's work after the last reply counts */
    cpu = server_cpu_ns() - began.cpu;
    printf("{\"commands\": %ld, \"seconds\": %.6f, \"cpu_seconds\": %.6f, \"own_cpu_seconds\": %.6f, "
           "\"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, "
           "\"longest_step_cpu_ms\": %.4f, \"longest_step_ms\": %.4f}\n",
           done, seconds, cpu / 1e9, own_cpu / 1e9, percentile(0.5), percentile(0.99), percentile(0.999), longest_step_cpu / 1e6,
           longest_step_wall / 1e6);
    return 0;
}
