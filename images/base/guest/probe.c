/* `guest probe`: sends many probes at once, and prints the result of each.
 *
 * A probe is a small state machine that epoll drives. start() opens its socket and advance()
 * handles the events on it. review checks the clock, and whether the other side has acknowledged all
 * data, which causes no event. It also repeats datagrams, because a busy host may lose a packet.
 */
#include "guest.h"
#include "packet.h"

#include <errno.h>
#include <linux/types.h> /* before errqueue.h, which lacks it */
#include <linux/errqueue.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <unistd.h>

enum {
    IN_FLIGHT = 256,
    ANSWER_MOST = 8192,
    FIELDS = 7,
    TIMEOUT_MOST_MS = 600 * 1000,
    REVIEW_US = 10 * 1000,         /* between two looks for acknowledgements */
    FIRST_ANSWER_US = 1000 * 1000, /* after the acknowledgement */
    SILENCE_US = 150 * 1000,       /* after this much of it, an answer counts as complete */
    SENDINGS = 3,                  /* of a datagram that nobody answers */
    RESEND_US = 600 * 1000,
};

enum protocol { TCP, UDP, ICMP, SPOOF_UDP, SPOOF_TCP };

struct probe {
    const char *id;
    enum protocol protocol;
    struct address source, target; /* the source may be none */
    uint16_t port, source_port;
    uint16_t sequence; /* of an echo */
    int64_t timeout;   /* this and all times in microseconds */
    uint8_t *payload;
    size_t size;
    int fd;
    int64_t started, acknowledged, answered; /* 0: not yet */
    int sendings;                            /* of a datagram */
    size_t sent, answer_size;
    bool connected, ended; /* ended: the other side sends no more */
    uint8_t *answer;
};

static struct {
    int epoll;
    uint16_t echo_id; /* of this process */
    struct probe *probe[IN_FLIGHT];
    size_t count;
} in_flight;

/* --- the probes on stdin --- */

static int parse_protocol(const char *name, enum protocol *protocol)
{
    /* In the order of the enum. */
    static const char *const names[] = {"tcp", "udp", "icmp", "spoof-udp", "spoof-tcp"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i])) {
            *protocol = (enum protocol)i;
            return 0;
        }
    return fail("'%.40s' is not tcp, udp, icmp, spoof-udp or spoof-tcp", name);
}

static int parse_probe(char *line, struct probe *probe)
{
    static uint8_t greeting[] = "vcloud";
    char *field[FIELDS];
    const int count = split(line, field, FIELDS);
    uint64_t port, timeout;

    *probe = (struct probe){.fd = -1};
    if (count < FIELDS - 1)
        return fail("too few fields");
    probe->id = field[0];
    for (const char *c = field[0]; *c; c++)
        if (*c <= ' ' || *c > '~')
            return fail("the id is not printable ASCII");
    if (parse_protocol(field[1], &probe->protocol) || parse_address(field[3], &probe->target))
        return -1;
    if (strcmp(field[2], "-") && parse_address(field[2], &probe->source))
        return -1;
    if (probe->source.family ? probe->source.family != probe->target.family : probe->protocol >= SPOOF_UDP)
        return fail("'%.60s' is no source for this probe", field[2]);
    if (parse_number(field[4], probe->protocol != ICMP, UINT16_MAX, &port) || parse_number(field[5], 1, TIMEOUT_MOST_MS, &timeout))
        return -1;
    probe->port = (uint16_t)port;
    probe->timeout = (int64_t)timeout * 1000;
    if (count == FIELDS && strcmp(field[6], "-"))
        return base64_decode(field[6], &probe->payload, &probe->size);
    if (probe->protocol != TCP) {
        probe->payload = greeting;
        probe->size = sizeof greeting - 1;
    }
    return 0;
}

/* --- the results on stdout --- */

static const char *result_of(int error)
{
    switch (error) {
    case ECONNREFUSED:
        return "refused";
    case ETIMEDOUT:
        return "timeout";
    case ECONNRESET:
    case EPIPE:
        return "reset";
    case EHOSTUNREACH:
    case ENETUNREACH:
    case EHOSTDOWN:
    case ENETDOWN:
    case ENOPROTOOPT: /* an ICMP protocol unreachable */
    case EACCES:      /* administratively prohibited, or a local `prohibit` */
    case EPERM:       /* a local filter */
        return "unreachable";
    default:
        return "error";
    }
}

/* Prints the result and forgets the probe. An errno goes with results that need explaining; it may
 * be 0. */
static void finish(struct probe *probe, const char *result, int error)
{
    const int64_t end = probe->acknowledged ? probe->acknowledged : monotonic_us();

    printf("{\"id\":");
    json_string(stdout, probe->id);
    printf(",\"result\":\"%s\",\"port\":%u,\"ms\":%.3f", result, probe->source_port, (double)(end - probe->started) / 1000);
    if (probe->answer_size) {
        printf(",\"answer\":\"");
        base64_print(stdout, probe->answer, probe->answer_size);
        putchar('"');
    }
    if (error) {
        printf(",\"error\":");
        json_string(stdout, strerror(error));
    }
    puts("}");
    if (probe->fd >= 0)
        close(probe->fd);
    free(probe->answer);
    for (size_t i = 0; i < in_flight.count; i++)
        if (in_flight.probe[i] == probe)
            in_flight.probe[i] = in_flight.probe[--in_flight.count];
}

static void finish_with(struct probe *probe, int error)
{
    const char *result = result_of(error);

    finish(probe, result, strcmp(result, "error") ? 0 : error);
}

static int socket_error(int fd)
{
    int error = 0;
    socklen_t size = sizeof error;

    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    return error;
}

static void keep_answer(struct probe *probe, const uint8_t *bytes, size_t size)
{
    const size_t room = ANSWER_MOST - probe->answer_size;

    if (!probe->answer)
        probe->answer = grow(NULL, 0, ANSWER_MOST);
    if (size > room)
        size = room;
    memcpy(probe->answer + probe->answer_size, bytes, size);
    probe->answer_size += size;
    probe->answered = monotonic_us();
}

/* --- TCP --- */

static bool is_acknowledged(const struct probe *probe)
{
    int left = 1;

    return probe->sent == probe->size && !ioctl(probe->fd, SIOCOUTQ, &left) && !left;
}

/* An open connection has broken. The result depends on whether the payload had arrived. */
static void finish_broken(struct probe *probe, int error)
{
    if (is_acknowledged(probe))
        finish(probe, "delivered", 0);
    else if (error == ETIMEDOUT)
        finish(probe, "stalled", 0);
    else
        finish_with(probe, error);
}

static void watch(struct probe *probe, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = probe};

    epoll_ctl(in_flight.epoll, EPOLL_CTL_MOD, probe->fd, &event);
}

/* Both give 0, or the errno with which the connection broke. */
static int send_payload(struct probe *probe)
{
    while (probe->sent < probe->size) {
        ssize_t size = send(probe->fd, probe->payload + probe->sent, probe->size - probe->sent, MSG_NOSIGNAL);

        if (size < 0)
            return errno == EAGAIN ? 0 : errno;
        probe->sent += (size_t)size;
    }
    return 0;
}

static int gather_answer(struct probe *probe)
{
    uint8_t bytes[4096];
    ssize_t size;

    while (!probe->ended) {
        if ((size = recv(probe->fd, bytes, sizeof bytes, 0)) < 0)
            return errno == EAGAIN ? 0 : errno;
        if (size)
            keep_answer(probe, bytes, (size_t)size);
        probe->ended = !size || probe->answer_size == ANSWER_MOST;
    }
    return 0;
}

static void advance_tcp(struct probe *probe, uint32_t events)
{
    int error = 0;

    if (!probe->connected) {
        if ((error = socket_error(probe->fd))) {
            finish_with(probe, error);
            return;
        }
        probe->connected = true;
        if (!probe->size) {
            finish(probe, "open", 0);
            return;
        }
    }
    if (events & EPOLLIN)
        error = gather_answer(probe);
    if (!error)
        error = send_payload(probe);
    if (!error && events & EPOLLERR)
        error = socket_error(probe->fd);
    if (error)
        finish_broken(probe, error);
    else
        watch(probe, (probe->sent < probe->size ? EPOLLOUT : 0) | (probe->ended ? 0 : EPOLLIN));
}

/* --- datagrams --- */

static void advance_udp(struct probe *probe)
{
    uint8_t bytes[ANSWER_MOST];
    ssize_t size = recv(probe->fd, bytes, sizeof bytes, 0);

    if (size >= 0) {
        keep_answer(probe, bytes, (size_t)size);
        finish(probe, "answered", 0);
    } else if (errno != EAGAIN) {
        finish_with(probe, errno);
    }
}

/* Raw sockets to one target see each other's errors. The error queue shows the request that each
 * error belongs to. */
static int icmp_error(const struct probe *probe)
{
    uint8_t request[ECHO_HEADER];
    union {
        struct cmsghdr aligned;
        char room[512];
    } control;
    struct iovec part = {.iov_base = request, .iov_len = sizeof request};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t size;

    while ((size = recvmsg(probe->fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT)) >= 0) {
        const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        struct sock_extended_err error;

        message.msg_controllen = sizeof control;
        if (!header || header->cmsg_len < CMSG_LEN(sizeof error))
            continue;
        memcpy(&error, CMSG_DATA(header), sizeof error);
        if (is_echo(request, (size_t)size, echo_type(probe->target.family, false), in_flight.echo_id, probe->sequence))
            return (int)error.ee_errno;
    }
    socket_error(probe->fd); /* clears it */
    return 0;
}

static void advance_icmp(struct probe *probe)
{
    const int error = icmp_error(probe);
    uint8_t packet[PACKET_MOST];
    ssize_t size;

    if (error) {
        finish_with(probe, error);
        return;
    }
    while ((size = recv(probe->fd, packet, sizeof packet, 0)) > 0) {
        /* A raw IPv4 socket also receives the IP header. */
        const size_t header = probe->target.family == AF_INET ? (size_t)(packet[0] & 15) * 4 : 0;

        if ((size_t)size < header)
            continue;
        if (is_echo(packet + header, (size_t)size - header, echo_type(probe->target.family, true), in_flight.echo_id, probe->sequence)) {
            finish(probe, "answered", 0);
            return;
        }
    }
}

/* --- probes of all kinds --- */

/* Sends a packet with a forged source. Gives 0 or an errno. */
static int forge(struct probe *probe)
{
    /* This program writes the IP header itself, in both families. */
    const int fd = socket(probe->target.family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
    struct flow flow = {.source = probe->source, .target = probe->target, .target_port = probe->port};
    struct sockaddr_storage target;
    const socklen_t length = socket_address(&probe->target, 0, &target);
    uint8_t packet[PACKET_MOST];
    size_t size;
    int error = 0;

    if (fd < 0 || (!probe->source_port && getrandom(&probe->source_port, sizeof probe->source_port, 0) < 0))
        return errno;
    flow.source_port = probe->source_port |= 0x8000; /* the same each time */
    size = probe->protocol == SPOOF_TCP ? make_syn(packet, &flow) : make_udp(packet, &flow, probe->payload, probe->size);
    if (sendto(fd, packet, size, 0, (struct sockaddr *)&target, length) < 0)
        error = errno;
    close(fd);
    return error;
}

static int open_socket(const struct probe *probe)
{
    const int family = probe->target.family, icmp = family == AF_INET ? IPPROTO_ICMP : IPPROTO_ICMPV6;

    if (probe->protocol == TCP)
        return socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (probe->protocol == UDP)
        return socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    return socket(family, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, icmp);
}

/* Connects the probe's socket, which in UDP and ICMP leaves the target as the only one that may
 * answer. Gives 0 or an errno. */
static int connect_socket(struct probe *probe)
{
    const int family = probe->target.family, on = 1;
    struct sockaddr_storage at;
    struct address self;
    socklen_t length;

    if (probe->protocol != TCP) /* UDP and ICMP otherwise ignore most unreachables */
        setsockopt(probe->fd, family == AF_INET ? SOL_IP : SOL_IPV6, family == AF_INET ? IP_RECVERR : IPV6_RECVERR, &on, sizeof on);
    if (probe->source.family) {
        setsockopt(probe->fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        length = socket_address(&probe->source, 0, &at);
        if (bind(probe->fd, (struct sockaddr *)&at, length))
            return errno;
    }
    length = socket_address(&probe->target, probe->protocol == ICMP ? 0 : probe->port, &at);
    if (connect(probe->fd, (struct sockaddr *)&at, length) && errno != EINPROGRESS)
        return errno;
    length = sizeof at;
    if (probe->protocol != ICMP && !getsockname(probe->fd, (struct sockaddr *)&at, &length))
        address_of(&at, &self, &probe->source_port);
    return 0;
}

/* Gives 0 or an errno. */
static int send_datagram(const struct probe *probe)
{
    uint8_t packet[PACKET_MOST];
    const uint8_t *bytes = probe->payload;
    size_t size = probe->size;

    if (probe->protocol == ICMP) {
        size = make_echo(packet, probe->target.family, in_flight.echo_id, probe->sequence, probe->payload, probe->size);
        bytes = packet;
    }
    return send(probe->fd, bytes, size, MSG_NOSIGNAL) < 0 ? errno : 0;
}

/* Gives 0 or an errno. */
static int send_once(struct probe *probe)
{
    probe->sendings++;
    return probe->protocol >= SPOOF_UDP ? forge(probe) : send_datagram(probe);
}

static int open_and_watch(struct probe *probe)
{
    struct epoll_event event = {.events = probe->protocol == TCP ? EPOLLOUT : EPOLLIN, .data.ptr = probe};
    int error = (probe->fd = open_socket(probe)) < 0 ? errno : connect_socket(probe);

    if (!error && epoll_ctl(in_flight.epoll, EPOLL_CTL_ADD, probe->fd, &event))
        error = errno;
    return error;
}

static void start(struct probe *probe)
{
    int error = 0;

    probe->started = monotonic_us();
    if (probe->protocol < SPOOF_UDP)
        error = open_and_watch(probe);
    if (!error && probe->protocol != TCP)
        error = send_once(probe);
    if (error)
        finish_with(probe, error);
    else
        in_flight.probe[in_flight.count++] = probe;
}

static void advance(struct probe *probe, uint32_t events)
{
    if (probe->protocol == TCP)
        advance_tcp(probe, events);
    else if (probe->protocol == UDP)
        advance_udp(probe);
    else
        advance_icmp(probe);
}

static int64_t earlier(int64_t one, int64_t other)
{
    return one < other ? one : other;
}

static bool sends_again(const struct probe *probe)
{
    return probe->protocol != TCP && probe->sendings < SENDINGS;
}

/* The next time at which something is due for a probe. */
static int64_t due(const struct probe *probe, int64_t time)
{
    const int64_t deadline = probe->started + probe->timeout;

    if (sends_again(probe))
        return earlier(deadline, probe->started + probe->sendings * RESEND_US);
    if (probe->protocol >= SPOOF_UDP)
        return time;
    if (!probe->connected)
        return deadline;
    if (!probe->acknowledged)
        return earlier(deadline, time + REVIEW_US);
    return earlier(deadline, probe->answered ? probe->answered + SILENCE_US : probe->acknowledged + FIRST_ANSWER_US);
}

static void review_datagram(struct probe *probe, int64_t time)
{
    const bool late = time >= probe->started + probe->timeout;
    int error;

    if (sends_again(probe) && !late && time >= due(probe, time) && (error = send_once(probe))) {
        if (probe->protocol == ICMP)
            advance_icmp(probe); /* the error may belong to another probe */
        else
            finish_with(probe, error);
    } else if (probe->protocol >= SPOOF_UDP && (late || !sends_again(probe))) {
        finish(probe, "sent", 0);
    } else if (late) {
        finish(probe, "timeout", 0);
    }
}

static void review_tcp(struct probe *probe, int64_t time)
{
    if (probe->connected && !probe->acknowledged && is_acknowledged(probe))
        probe->acknowledged = time;
    if (probe->acknowledged && (probe->ended || time >= due(probe, time)))
        finish(probe, "delivered", 0);
    else if (!probe->acknowledged && time >= probe->started + probe->timeout)
        finish(probe, probe->connected ? "stalled" : "timeout", 0);
}

/* Waits until something happens on a socket or is due. */
static void step(void)
{
    struct epoll_event event[64];
    int64_t time = monotonic_us(), wake = INT64_MAX;
    int count;

    for (size_t i = 0; i < in_flight.count; i++)
        wake = earlier(wake, due(in_flight.probe[i], time));
    count = epoll_wait(in_flight.epoll, event, 64, wake > time ? (int)((wake - time + 999) / 1000) : 0);
    for (int i = 0; i < count; i++)
        advance(event[i].data.ptr, event[i].events);
    time = monotonic_us();
    /* Backwards, because finish() moves the last into the gap. */
    for (size_t i = in_flight.count; i-- > 0;)
        if (in_flight.probe[i]->protocol == TCP)
            review_tcp(in_flight.probe[i], time);
        else
            review_datagram(in_flight.probe[i], time);
}

int probe(void)
{
    struct input input = {0};
    struct probe *probes = NULL;
    size_t count = 0, next = 0;
    char *line;

    if (input_read(&input, STDIN_FILENO))
        return print_error(input.line);
    while ((line = input_line(&input))) {
        probes = grow(probes, count, sizeof *probes);
        if (parse_probe(line, &probes[count]))
            return print_error(input.line);
        probes[count].sequence = (uint16_t)count;
        count++;
    }
    in_flight.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (in_flight.epoll < 0 || getrandom(&in_flight.echo_id, sizeof in_flight.echo_id, 0) < 0) {
        fail_errno("epoll");
        return print_error(0);
    }
    while (next < count || in_flight.count) {
        while (next < count && in_flight.count < IN_FLIGHT)
            start(&probes[next++]);
        if (in_flight.count)
            step();
    }
    return 0;
}
