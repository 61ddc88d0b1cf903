/* `guest ready` and `guest wait-tcp`: does anything in this guest listen on a TCP port, whatever
 * its address?
 *
 * The exit status is 0 if a program listens, 1 if none does, and 3 as soon as a service has failed
 * for good, because waiting is then useless.
 */
#include "systemd.h"

#include <errno.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

enum { ADDRESSES_MOST = 256, CONNECT_MS = 500, LOOK_AGAIN_MS = 100, WAIT_MOST_S = 86400 };
enum { LOOK_AT_UNITS_US = 1000000, FAILED_FOR_US = 3000000 };
enum { NOBODY_LISTENS = 1, UNIT_FAILED = 3 };

/* Returns a socket that is connecting, or -1 if the connection is refused at once. */
static int begin_connect(const struct address *address, uint16_t port)
{
    struct sockaddr_storage target;
    const socklen_t length = socket_address(address, port, &target);
    const int fd = socket(address->family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0 || !connect(fd, (struct sockaddr *)&target, length) || errno == EINPROGRESS)
        return fd;
    close(fd);
    return -1;
}

/* Tries all addresses of the guest at once, and returns their number. Link-local ones are left out:
 * no service binds to those alone. */
static nfds_t begin_all(uint16_t port, struct pollfd attempt[ADDRESSES_MOST])
{
    struct ifaddrs *first = NULL;
    nfds_t count = 0;

    if (getifaddrs(&first))
        return 0;
    for (const struct ifaddrs *at = first; at && count < ADDRESSES_MOST; at = at->ifa_next) {
        struct address address;
        uint16_t none;

        if (!at->ifa_addr || (at->ifa_addr->sa_family != AF_INET && at->ifa_addr->sa_family != AF_INET6))
            continue;
        address_of((const struct sockaddr_storage *)at->ifa_addr, &address, &none);
        if (address.family == AF_INET6 && address.bytes[0] == 0xfe && (address.bytes[1] & 0xc0) == 0x80)
            continue;
        attempt[count] = (struct pollfd){.fd = begin_connect(&address, port), .events = POLLOUT};
        count += attempt[count].fd >= 0;
    }
    freeifaddrs(first);
    return count;
}

/* Has the attempt succeeded? Closes the socket of one that has ended. */
static bool has_connected(struct pollfd *attempt)
{
    int error = 0;
    socklen_t size = sizeof error;

    if (attempt->fd < 0 || !attempt->revents)
        return false;
    getsockopt(attempt->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    close(attempt->fd);
    attempt->fd = -1; /* poll() ignores it */
    return !error;
}

static bool is_served(uint16_t port)
{
    struct pollfd attempt[ADDRESSES_MOST];
    const nfds_t count = begin_all(port, attempt);
    nfds_t left = count;
    bool served = false;

    while (left && !served && poll(attempt, count, CONNECT_MS) > 0) {
        left = 0;
        for (nfds_t i = 0; i < count; i++) {
            served |= has_connected(&attempt[i]);
            left += attempt[i].fd >= 0;
        }
    }
    for (nfds_t i = 0; i < count; i++)
        if (attempt[i].fd >= 0)
            close(attempt[i].fd);
    return served;
}

/* Has a service failed for good since `begun`, and stayed so for some time? One look is not enough,
 * because another service may listen soon. Earlier failures do not count. If systemd does not answer
 * or is not there, no service counts as failed. */
static bool has_failed(int64_t begun, int64_t *well)
{
    static int64_t next;
    const int64_t now = monotonic_us();
    int fd, failed;

    if (now < next)
        return false;
    next = now + LOOK_AT_UNITS_US;
    if ((fd = systemd_connect()) < 0)
        return false;
    failed = systemd_troubled(fd, NULL, now - begun);
    close(fd);
    if (failed <= 0)
        *well = now;
    return now - *well >= FAILED_FOR_US;
}

int ready(const char *port, const char *seconds, const char *since)
{
    const int64_t now = monotonic_us();
    int64_t deadline, well = now;
    uint64_t number, wait, before;

    if (parse_number(port, 1, UINT16_MAX, &number) || parse_number(seconds, 0, WAIT_MOST_S, &wait)
        || parse_number(since, 0, WAIT_MOST_S, &before))
        return print_error(0);
    deadline = now + (int64_t)wait * 1000000;
    while (!is_served((uint16_t)number)) {
        if (monotonic_us() >= deadline)
            return NOBODY_LISTENS;
        if (has_failed(now - (int64_t)before * 1000000, &well))
            return UNIT_FAILED;
        poll(NULL, 0, LOOK_AGAIN_MS);
    }
    return 0;
}
