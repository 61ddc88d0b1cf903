/* NICs are found by MAC address, because hot-plugged ones come in any order, and then get the names
 * of the document. */
#include "nics.h"
#include "netlink.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

enum { NIC_WAIT_US = 10 * 1000 * 1000 };

struct search {
    const uint8_t *mac;
    char *name;
    int index;
};

static void compare_nic(const struct nlmsghdr *message, void *context)
{
    const struct ifinfomsg *link = NLMSG_DATA(message);
    struct search *search = context;
    size_t mac_size, name_size;
    const void *mac = attribute(message, sizeof *link, IFLA_ADDRESS, &mac_size);
    const char *name = attribute(message, sizeof *link, IFLA_IFNAME, &name_size);

    if (search->index || !mac || mac_size != 6 || memcmp(mac, search->mac, 6) || !name || name_size > IFNAMSIZ)
        return;
    /* The first one is taken: VLANs and the like on top of a NIC have the same MAC address, and come
     * later. */
    search->index = link->ifi_index;
    memcpy(search->name, name, name_size);
}

int nic_find(const uint8_t mac[6], char name[IFNAMSIZ])
{
    struct search search = {.mac = mac, .name = name};

    return netlink_dump(RTM_GETLINK, compare_nic, &search) ? 0 : search.index;
}

static int set_flags(int index, unsigned flags)
{
    struct request request;
    struct ifinfomsg *link = request_begin(&request, RTM_NEWLINK, 0, sizeof *link);

    link->ifi_index = index;
    link->ifi_flags = flags;
    link->ifi_change = IFF_UP;
    return netlink_send(&request.header);
}

int nic_up(int index)
{
    return set_flags(index, IFF_UP) ? fail_netlink() : 0;
}

int loopback_up(void)
{
    return nic_up((int)if_nametoindex("lo"));
}

static int set_attribute(int index, int type, const void *value, size_t size)
{
    struct request request;
    struct ifinfomsg *link = request_begin(&request, RTM_NEWLINK, 0, sizeof *link);

    link->ifi_index = index;
    request_put(&request, type, value, size);
    return netlink_send(&request.header);
}

static int set_name(int index, const char *name)
{
    return set_attribute(index, IFLA_IFNAME, name, strlen(name) + 1);
}

/* A VM that woke still has the MAC address of its memory image. A VM that was booted has no NIC with
 * that address. */
int nic_change_mac(struct directive *mac)
{
    char name[IFNAMSIZ];
    const int index = nic_find(mac->mac, name);

    return index && set_attribute(index, IFLA_ADDRESS, mac->new_mac, sizeof mac->new_mac) ? fail_netlink() : 0;
}

static int rename_nic(int index, const char *name)
{
    int error = set_name(index, name);

    if (error == EBUSY) { /* kernels before 6.2 rename no NIC that is up */
        set_flags(index, 0);
        error = set_name(index, name);
        set_flags(index, IFF_UP);
    }
    return error ? fail_netlink() : 0;
}

/* Looks for the NIC, and again after each change of any NIC, until the NIC exists. */
static int await_nic(const uint8_t mac[6], char name[IFNAMSIZ])
{
    const int64_t deadline = monotonic_us() + NIC_WAIT_US;
    struct sockaddr_nl changes = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};
    struct pollfd events = {.fd = -1, .events = POLLIN};
    char ignored[8192];
    int index;

    while (!(index = nic_find(mac, name))) {
        int64_t left = deadline - monotonic_us();

        if (left <= 0)
            break;
        /* Look once more after subscribing, because the NIC may have appeared before. */
        if (events.fd < 0) {
            events.fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
            if (events.fd < 0 || bind(events.fd, (struct sockaddr *)&changes, sizeof changes))
                break;
            continue;
        }
        poll(&events, 1, (int)(left / 1000) + 1);
        while (recv(events.fd, ignored, sizeof ignored, 0) > 0)
            ;
    }
    if (events.fd >= 0)
        close(events.fd);
    return index;
}

int nic_take(struct directive *nic)
{
    const char *wanted = nic->field[1];
    char name[IFNAMSIZ], aside[IFNAMSIZ], key[64];
    int other;

    if (!(nic->nic_index = await_nic(nic->mac, name)))
        return fail("no NIC with MAC address %s", nic->field[0]);
    if (strcmp(name, wanted)) {
        other = (int)if_nametoindex(wanted);
        snprintf(aside, sizeof aside, "aside%d", other);
        if ((other && rename_nic(other, aside)) || rename_nic(nic->nic_index, wanted))
            return -1;
    }
    snprintf(key, sizeof key, "net/ipv6/conf/%s/accept_ra", wanted);
    if (write_sysctl(key, "0") && errno != ENOENT) /* the kernel may have no IPv6 */
        return -1;
    /* without this, the kernel would remove all addresses of a prefix together with the first one */
    snprintf(key, sizeof key, "net/ipv4/conf/%s/promote_secondaries", wanted);
    return write_sysctl(key, "1");
}
