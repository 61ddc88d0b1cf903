/* `guest listen`: answers probes while a check runs, and logs who sent them.
 *
 * The program binds its addresses before it goes into the background, so that its caller knows what
 * can be probed. A TCP peer gets its answer after its first data, or its own data back. The program
 * reads everything that a peer sends, so that it is acknowledged.
 */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    SECONDS_MOST = 86400,
    PEERS_MOST = 512,   /* TCP connections at once; a further one ends the oldest */
    ECHO_MOST = 8192,   /* bytes that go back to a TCP peer; a probe keeps no more */
    /* Lines of the log, and UDP answers, at most. So a flood cannot fill the memory, and two services
     * do not answer each other for ever. */
    LOG_MOST = 100000,
    STOP_WAIT_MS = 5000,
};

struct service {
    bool tcp;
    int fd;
    struct address address;
    uint16_t port;
    uint8_t *answer; /* NULL: the data that came is sent back */
    size_t size;
};

struct peer {
    const struct service *service; /* NULL: this entry is free */
    int fd;
    struct address address;
    uint16_t port;
    size_t bytes, echoed;
};

static struct {
    int epoll, log;
    size_t logged;
    struct peer peer[PEERS_MOST];
    size_t next; /* the entry for the next peer */
} server;

static int parse_service(char *line, struct service *service)
{
    char *field[4];
    const int count = split(line, field, 4);
    uint64_t port;

    *service = (struct service){.fd = -1, .tcp = !strcmp(field[0], "tcp")};
    if (!service->tcp && strcmp(field[0], "udp"))
        return fail("'%.40s' is not tcp or udp", field[0]);
    if (count < 3)
        return fail("too few fields");
    if (parse_address(field[1], &service->address) || parse_number(field[2], 1, UINT16_MAX, &port))
        return -1;
    service->port = (uint16_t)port;
    return count == 4 ? base64_decode(field[3], &service->answer, &service->size) : 0;
}

/* Leaves the socket at -1 if another program has the port. */
static int bind_service(struct service *service)
{
    struct sockaddr_storage at;
    const socklen_t length = socket_address(&service->address, service->port, &at);
    const int type = service->tcp ? SOCK_STREAM : SOCK_DGRAM, on = 1;
    const int fd = socket(service->address.family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int error;

    if (fd < 0)
        return fail_errno("socket");
    if (service->tcp)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (service->address.family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    if (!bind(fd, (struct sockaddr *)&at, length) && (!service->tcp || !listen(fd, SOMAXCONN))) {
        service->fd = fd;
        return 0;
    }
    error = errno;
    close(fd);
    return error == EADDRINUSE ? 0 : fail("%s: %s", address_text(&service->address), strerror(error));
}

/* --- the log: each line is one write(), so that a reader never sees half a line --- */

static void log_peer(const struct service *service, const struct address *from, uint16_t from_port, size_t bytes)
{
    char line[256], own[64];
    int size;

    if (server.logged++ >= LOG_MOST)
        return;
    snprintf(own, sizeof own, "%s", address_text(&service->address));
    size = snprintf(line, sizeof line,
                    "{\"protocol\":\"%s\",\"address\":\"%s\",\"port\":%u,\"from\":\"%s\",\"from_port\":%u,\"bytes\":%zu}\n",
                    service->tcp ? "tcp" : "udp", own, service->port, address_text(from), from_port, bytes);
    if (write(server.log, line, (size_t)size) < 0)
        server.logged = LOG_MOST; /* the disk is full: log no more */
}

/* --- serve --- */

static void part(struct peer *peer)
{
    if (!peer->service)
        return;
    log_peer(peer->service, &peer->address, peer->port, peer->bytes);
    close(peer->fd);
    peer->service = NULL;
}

static void welcome(const struct service *service)
{
    struct peer *peer = &server.peer[server.next++ % PEERS_MOST];
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = peer};
    struct sockaddr_storage from;
    socklen_t length = sizeof from;

    part(peer);
    *peer = (struct peer){.service = service};
    peer->fd = accept4(service->fd, (struct sockaddr *)&from, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (peer->fd < 0) {
        peer->service = NULL;
        return;
    }
    address_of(&from, &peer->address, &peer->port);
    epoll_ctl(server.epoll, EPOLL_CTL_ADD, peer->fd, &event);
}

static void converse(struct peer *peer)
{
    uint8_t bytes[16 << 10];
    const struct service *service = peer->service;
    const ssize_t size = recv(peer->fd, bytes, sizeof bytes, 0);
    size_t back;

    if (size < 0 && errno == EAGAIN)
        return;
    if (size <= 0) {
        part(peer);
        return;
    }
    if (service->answer && !peer->bytes)
        send(peer->fd, service->answer, service->size, MSG_NOSIGNAL);
    back = ECHO_MOST - peer->echoed;
    if (back > (size_t)size)
        back = (size_t)size;
    if (!service->answer && back)
        send(peer->fd, bytes, back, MSG_NOSIGNAL);
    peer->echoed += back;
    peer->bytes += (size_t)size;
}

static void answer_datagram(const struct service *service)
{
    uint8_t bytes[64 << 10];
    struct sockaddr_storage from;
    socklen_t length = sizeof from;
    struct address address;
    uint16_t port;
    const ssize_t size = recvfrom(service->fd, bytes, sizeof bytes, 0, (struct sockaddr *)&from, &length);

    if (size < 0)
        return;
    address_of(&from, &address, &port);
    log_peer(service, &address, port, (size_t)size);
    if (server.logged >= LOG_MOST)
        return;
    if (service->answer)
        sendto(service->fd, service->answer, service->size, 0, (struct sockaddr *)&from, length);
    else
        sendto(service->fd, bytes, (size_t)size, 0, (struct sockaddr *)&from, length);
}

static bool is_peer(const void *pointer)
{
    return (const struct peer *)pointer >= server.peer && (const struct peer *)pointer < server.peer + PEERS_MOST;
}

/* Serves until the time is over or SIGTERM comes. Peers that are still connected then are logged,
 * too. */
static void serve(struct service *services, size_t count, int stop, int64_t deadline)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    bool over = false;
    int64_t left;

    epoll_ctl(server.epoll, EPOLL_CTL_ADD, stop, &event);
    for (size_t i = 0; i < count; i++) {
        event.data.ptr = &services[i];
        if (services[i].fd >= 0)
            epoll_ctl(server.epoll, EPOLL_CTL_ADD, services[i].fd, &event);
    }
    while (!over && (left = deadline - monotonic_us()) > 0) {
        if (epoll_wait(server.epoll, &event, 1, (int)(left / 1000) + 1) < 1)
            continue;
        if (!event.data.ptr)
            over = true;
        else if (is_peer(event.data.ptr))
            converse(event.data.ptr);
        else if (((struct service *)event.data.ptr)->tcp)
            welcome(event.data.ptr);
        else
            answer_datagram(event.data.ptr);
    }
    for (size_t i = 0; i < PEERS_MOST; i++)
        part(&server.peer[i]);
}

/* --- start --- */

static void print_services(const struct service *services, size_t count, bool bound)
{
    const char *separator = "";

    for (size_t i = 0; i < count; i++) {
        if ((services[i].fd >= 0) != bound)
            continue;
        printf("%s\"%s %s %u\"", separator, services[i].tcp ? "tcp" : "udp", address_text(&services[i].address), services[i].port);
        separator = ",";
    }
}

/* Leaves the caller's session and closes its pipes, because the caller may wait for their end. */
static void detach(void)
{
    const int null = open("/dev/null", O_RDWR);

    setsid();
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        dup2(null, fd);
    if (null > STDERR_FILENO)
        close(null);
}

static int prepare(char *log_path)
{
    struct rlimit files;

    if (make_parents(log_path))
        return -1;
    if ((server.log = mkostemps(log_path, 6, O_CLOEXEC | O_APPEND)) < 0)
        return fail_errno(log_path);
    if ((server.epoll = epoll_create1(EPOLL_CLOEXEC)) < 0)
        return fail_errno("epoll");
    if (!getrlimit(RLIMIT_NOFILE, &files)) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    return 0;
}

static int go(struct service *services, size_t count, int64_t seconds)
{
    char log_path[] = "/run/vcloud/listen-XXXXXX.jsonl";
    const int64_t deadline = monotonic_us() + seconds * 1000000;
    sigset_t stop;
    pid_t pid;

    if (prepare(log_path))
        return -1;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTERM);
    sigprocmask(SIG_BLOCK, &stop, NULL);
    if ((pid = fork()) < 0)
        return fail_errno("fork");
    if (!pid) {
        detach();
        serve(services, count, signalfd(-1, &stop, SFD_CLOEXEC), deadline);
        _exit(0);
    }
    printf("{\"pid\":%d,\"bound\":[", pid);
    print_services(services, count, true);
    printf("],\"busy\":[");
    print_services(services, count, false);
    printf("],\"log\":\"%s\"}\n", log_path);
    return 0;
}

int listen_start(const char *seconds)
{
    struct input input = {0};
    struct service *services = NULL;
    size_t count = 0;
    uint64_t duration;
    char *line;

    if (parse_number(seconds, 1, SECONDS_MOST, &duration) || input_read(&input, STDIN_FILENO))
        return print_error(input.line);
    while ((line = input_line(&input))) {
        services = grow(services, count, sizeof *services);
        if (parse_service(line, &services[count]) || bind_service(&services[count]))
            return print_error(input.line);
        count++;
    }
    return go(services, count, (int64_t)duration) ? print_error(0) : 0;
}

/* --- stop --- */

/* Is the process a `guest listen`? Another process may have got its number by now. */
static bool is_listener(uint64_t pid)
{
    char path[64], command[256] = "";
    const char *word;
    struct stat theirs, ours;
    ssize_t size;
    int fd;

    snprintf(path, sizeof path, "/proc/%llu/exe", (unsigned long long)pid);
    if (stat(path, &theirs) || stat("/proc/self/exe", &ours) || theirs.st_ino != ours.st_ino || theirs.st_dev != ours.st_dev)
        return false;
    snprintf(path, sizeof path, "/proc/%llu/cmdline", (unsigned long long)pid);
    if ((fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
        return false;
    size = read(fd, command, sizeof command - 1);
    close(fd);
    word = command + strlen(command) + 1; /* a zero byte ends each word */
    return size > 0 && word < command + size && !strcmp(word, "listen");
}

int listen_stop(const char *pid)
{
    uint64_t number;
    struct pollfd process = {.events = POLLIN};

    if (parse_number(pid, 2, INT32_MAX, &number))
        return print_error(0);
    /* From here on no other process can get the number. */
    process.fd = (int)syscall(SYS_pidfd_open, (pid_t)number, 0);
    /* It has ended by itself. */
    if ((process.fd < 0 && errno == ESRCH) || (process.fd >= 0 && poll(&process, 1, 0) > 0))
        return 0;
    if (process.fd < 0)
        fail_errno("pidfd");
    else if (!is_listener(number))
        fail("process %s is no guest listen", pid);
    else if (syscall(SYS_pidfd_send_signal, process.fd, SIGTERM, NULL, 0))
        fail_errno("signal");
    else if (poll(&process, 1, STOP_WAIT_MS) > 0)
        return 0;
    else
        fail("process %s does not end", pid);
    return print_error(0);
}
