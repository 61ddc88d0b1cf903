/* Network cards: found by MAC address, because hot-plugged cards come in any order, and then given the names of the document. */
#include "identity.h"
#include "netlink.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

enum { CARD_WAIT_US = 10 * 1000 * 1000 };

struct search {
    const uint8_t *mac;
    char *name;
    int card;
};

static void compare_card(const struct nlmsghdr *message, void *context)
{
    const struct ifinfomsg *link = NLMSG_DATA(message);
    struct search *search = context;
    size_t mac_size, name_size;
    const void *mac = attribute(message, sizeof *link, IFLA_ADDRESS, &mac_size);
    const char *name = attribute(message, sizeof *link, IFLA_IFNAME, &name_size);

    if (search->card || !mac || mac_size != 6 || memcmp(mac, search->mac, 6) || !name || name_size > IFNAMSIZ)
        return;
    search->card = link->ifi_index; /* the first: VLANs and the like of a card share its MAC address, and come later */
    memcpy(search->name, name, name_size);
}

int card_find(const uint8_t mac[6], char name[IFNAMSIZ])
{
    struct search search = {.mac = mac, .name = name};

    return netlink_dump(RTM_GETLINK, compare_card, &search) ? 0 : search.card;
}

static int set_flags(int card, unsigned flags)
{
    struct request request;
    struct ifinfomsg *link = request_begin(&request, RTM_NEWLINK, 0, sizeof *link);

    link->ifi_index = card;
    link->ifi_flags = flags;
    link->ifi_change = IFF_UP;
    return netlink_send(&request.header);
}

int card_up(int card)
{
    return set_flags(card, IFF_UP) ? fail_netlink() : 0;
}

int loopback_up(void)
{
    return card_up((int)if_nametoindex("lo"));
}

static int set_attribute(int card, int type, const void *value, size_t size)
{
    struct request request;
    struct ifinfomsg *link = request_begin(&request, RTM_NEWLINK, 0, sizeof *link);

    link->ifi_index = card;
    request_put(&request, type, value, size);
    return netlink_send(&request.header);
}

static int set_name(int card, const char *name)
{
    return set_attribute(card, IFLA_IFNAME, name, strlen(name) + 1);
}

/* A VM that wakes has a card of its template's; a VM that was booted has none of that address. */
int card_readdress(struct directive *mac)
{
    char name[IFNAMSIZ];
    const int card = card_find(mac->mac, name);

    return card && set_attribute(card, IFLA_ADDRESS, mac->wanted, sizeof mac->wanted) ? fail_netlink() : 0;
}

static int card_rename(int card, const char *name)
{
    int error = set_name(card, name);

    if (error == EBUSY) { /* kernels before 6.2 rename no card that is up */
        set_flags(card, 0);
        error = set_name(card, name);
        set_flags(card, IFF_UP);
    }
    return error ? fail_netlink() : 0;
}

/* Looks for the card, and then after each change of any card until it is there. */
static int card_await(const uint8_t mac[6], char name[IFNAMSIZ])
{
    const int64_t deadline = monotonic_us() + CARD_WAIT_US;
    struct sockaddr_nl changes = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};
    struct pollfd events = {.fd = -1, .events = POLLIN};
    char ignored[8192];
    int card;

    while (!(card = card_find(mac, name))) {
        int64_t left = deadline - monotonic_us();

        if (left <= 0)
            break;
        if (events.fd < 0) { /* look again once changes are heard of: it may have come in between */
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
    return card;
}

int card_take(struct directive *nic)
{
    const char *wanted = nic->field[1];
    char name[IFNAMSIZ], aside[IFNAMSIZ], key[64];
    int other;

    if (!(nic->card = card_await(nic->mac, name)))
        return fail("no card with MAC address %s", nic->field[0]);
    if (strcmp(name, wanted)) {
        other = (int)if_nametoindex(wanted);
        snprintf(aside, sizeof aside, "aside%d", other);
        if ((other && card_rename(other, aside)) || card_rename(nic->card, wanted))
            return -1;
    }
    snprintf(key, sizeof key, "net/ipv6/conf/%s/accept_ra", wanted);
    if (write_sysctl(key, "0") && errno != ENOENT) /* there may be no IPv6 */
        return -1;
    /* prune() may remove an address whose younger siblings are to stay */
    snprintf(key, sizeof key, "net/ipv4/conf/%s/promote_secondaries", wanted);
    return write_sysctl(key, "1");
}
