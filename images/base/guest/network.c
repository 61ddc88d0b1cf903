/* Addresses, neighbours, routes and policy rules: added when the document names them, removed when it does not. */
#include "network.h"
#include "netlink.h"
#include "nics.h"

#include <errno.h>
#include <linux/fib_rules.h>
#include <stdlib.h>
#include <string.h>

enum {
    ORIGIN = 86,          /* marks our routes and rules: shown by iproute2 as `proto 86` */
    RULE_PRIORITY = 1000, /* before the main table, at 32766 */
};

static int send_address(const struct directive *addr)
{
    struct request request;
    struct ifaddrmsg *message = request_begin(&request, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, sizeof *message);

    message->ifa_family = (uint8_t)addr->prefix.address.family;
    message->ifa_prefixlen = (uint8_t)addr->prefix.length;
    message->ifa_index = (uint32_t)addr->nic->nic_index;
    message->ifa_flags = IFA_F_NODAD; /* vcloud gives each address once, and it is needed at once */
    request_put_address(&request, IFA_LOCAL, &addr->prefix.address);
    request_put_address(&request, IFA_ADDRESS, &addr->prefix.address);
    return netlink_send(&request.header);
}

int add_neighbour(struct directive *neigh)
{
    struct request request;
    struct ndmsg *message = request_begin(&request, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, sizeof *message);

    if (nic_up(neigh->nic->nic_index))
        return -1;
    message->ndm_family = (uint8_t)neigh->address.family;
    message->ndm_ifindex = neigh->nic->nic_index;
    message->ndm_state = NUD_PERMANENT;
    request_put_address(&request, NDA_DST, &neigh->address);
    request_put(&request, NDA_LLADDR, neigh->mac, sizeof neigh->mac);
    return netlink_send(&request.header) ? fail_netlink() : 0;
}

int add_route(struct directive *route)
{
    struct request request;
    struct rtmsg *message = request_begin(&request, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, sizeof *message);
    const uint32_t index = (uint32_t)route->nic->nic_index;

    if (nic_up(route->nic->nic_index))
        return -1;
    message->rtm_family = (uint8_t)route->prefix.address.family;
    message->rtm_dst_len = (uint8_t)route->prefix.length;
    message->rtm_table = RT_TABLE_UNSPEC; /* RTA_TABLE has room for all numbers */
    message->rtm_protocol = ORIGIN;
    message->rtm_type = RTN_UNICAST;
    message->rtm_scope = route->gateway.family ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK;
    message->rtm_flags = route->gateway.family ? RTNH_F_ONLINK : 0;
    if (route->prefix.length)
        request_put_address(&request, RTA_DST, &route->prefix.address);
    request_put_address(&request, RTA_GATEWAY, &route->gateway);
    request_put_address(&request, RTA_PREFSRC, &route->source);
    request_put(&request, RTA_OIF, &index, sizeof index);
    request_put(&request, RTA_TABLE, &route->table, sizeof route->table);
    return netlink_send(&request.header) ? fail_netlink() : 0;
}

int add_rule(struct directive *rule)
{
    struct request request;
    struct fib_rule_hdr *message = request_begin(&request, RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, sizeof *message);
    const uint32_t priority = RULE_PRIORITY;
    const uint8_t origin = ORIGIN;
    int error;

    message->family = (uint8_t)rule->address.family;
    message->src_len = (uint8_t)(8 * address_size(&rule->address));
    message->action = FR_ACT_TO_TBL;
    request_put_address(&request, FRA_SRC, &rule->address);
    request_put(&request, FRA_TABLE, &rule->table, sizeof rule->table);
    request_put(&request, FRA_PRIORITY, &priority, sizeof priority);
    request_put(&request, FRA_PROTOCOL, &origin, sizeof origin);
    error = netlink_send(&request.header);
    return error && error != EEXIST ? fail_netlink() : 0;
}

/* --- removal of what the document does not name --- */

struct pruning {
    const struct document *document;
    const int *nic; /* indexes of the NICs to look at */
    size_t nics;
    bool (*is_obsolete)(const struct nlmsghdr *message, const struct pruning *pruning);
    struct nlmsghdr **found;
    size_t count;
};

static bool is_ours(const struct pruning *pruning, int index)
{
    for (size_t i = 0; i < pruning->nics; i++)
        if (pruning->nic[i] == index)
            return true;
    return false;
}

static bool address_is_obsolete(const struct nlmsghdr *message, const struct pruning *pruning)
{
    const struct ifaddrmsg *address = NLMSG_DATA(message);
    const int type = address->ifa_family == AF_INET ? IFA_LOCAL : IFA_ADDRESS;

    if (!is_ours(pruning, (int)address->ifa_index))
        return false;
    if (address->ifa_family == AF_INET6 && address->ifa_scope == RT_SCOPE_LINK)
        return false;
    for (const struct directive *addr = pruning->document->first; addr; addr = addr->next)
        if (addr->verb == ADDR && addr->nic->nic_index == (int)address->ifa_index
            && addr->prefix.address.family == address->ifa_family && addr->prefix.length == address->ifa_prefixlen
            && attribute_is(message, sizeof *address, type, &addr->prefix.address))
            return false;
    return true;
}

static bool neighbour_is_obsolete(const struct nlmsghdr *message, const struct pruning *pruning)
{
    const struct ndmsg *entry = NLMSG_DATA(message);

    if (!is_ours(pruning, entry->ndm_ifindex) || !(entry->ndm_state & NUD_PERMANENT))
        return false;
    for (const struct directive *neigh = pruning->document->first; neigh; neigh = neigh->next)
        if (neigh->verb == NEIGH && neigh->nic->nic_index == entry->ndm_ifindex
            && neigh->address.family == entry->ndm_family && attribute_is(message, sizeof *entry, NDA_DST, &neigh->address))
            return false;
    return true;
}

static bool route_is_obsolete(const struct nlmsghdr *message, const struct pruning *pruning)
{
    const struct rtmsg *entry = NLMSG_DATA(message);
    const uint32_t table = attribute_number(message, sizeof *entry, RTA_TABLE);
    size_t size;
    const struct rtnexthop *several = attribute(message, sizeof *entry, RTA_MULTIPATH, &size);
    const int index = several ? several->rtnh_ifindex : (int)attribute_number(message, sizeof *entry, RTA_OIF);

    if (!is_ours(pruning, index) || entry->rtm_protocol == RTPROT_KERNEL || entry->rtm_flags & RTM_F_CLONED)
        return false;
    for (const struct directive *route = pruning->document->first; route && !several; route = route->next)
        if (route->verb == ROUTE && route->nic->nic_index == index && route->table == table
            && route->prefix.address.family == entry->rtm_family && route->prefix.length == entry->rtm_dst_len
            && attribute_is(message, sizeof *entry, RTA_DST, &route->prefix.address)
            && attribute_is(message, sizeof *entry, RTA_GATEWAY, &route->gateway)
            && attribute_is(message, sizeof *entry, RTA_PREFSRC, &route->source))
            return false;
    return true;
}

static bool rule_is_obsolete(const struct nlmsghdr *message, const struct pruning *pruning)
{
    const struct fib_rule_hdr *entry = NLMSG_DATA(message);
    size_t size;
    const uint8_t *origin = attribute(message, sizeof *entry, FRA_PROTOCOL, &size);

    if (!origin || size != sizeof *origin || *origin != ORIGIN)
        return false;
    for (const struct directive *rule = pruning->document->first; rule; rule = rule->next)
        if (rule->verb == RULE && rule->address.family == entry->family
            && rule->table == attribute_number(message, sizeof *entry, FRA_TABLE)
            && attribute_is(message, sizeof *entry, FRA_SRC, &rule->address))
            return false;
    return true;
}

static void collect(const struct nlmsghdr *message, void *context)
{
    struct pruning *pruning = context;
    struct nlmsghdr *copy;

    if (!pruning->is_obsolete(message, pruning))
        return;
    pruning->found = grow(pruning->found, pruning->count, sizeof *pruning->found);
    pruning->found[pruning->count++] = copy = grow(NULL, 0, message->nlmsg_len);
    memcpy(copy, message, message->nlmsg_len);
}

/* The message with which the kernel shows an object is also, with the type RTM_DEL..., the request that removes it. */
static int prune_type(struct pruning pruning, int get, int delete, bool (*is_obsolete)(const struct nlmsghdr *, const struct pruning *))
{
    int failed;

    pruning.is_obsolete = is_obsolete;
    failed = netlink_dump(get, collect, &pruning);
    for (size_t i = 0; i < pruning.count; i++) {
        struct nlmsghdr *message = pruning.found[i];
        int error = 0;

        message->nlmsg_type = (uint16_t)delete;
        message->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
        if (!failed)
            error = netlink_send(message);
        /* the kernel itself removes what depended on an object that was removed before */
        if (error && error != ESRCH && error != ENOENT && error != EADDRNOTAVAIL)
            failed = fail_netlink();
        free(message);
    }
    free(pruning.found);
    return failed;
}

int add_address(struct directive *addr)
{
    const struct pruning pruning = {.document = addr->document, .nic = &addr->nic->nic_index, .nics = 1};
    int error = send_address(addr);

    /* The kernel tells IPv6 addresses apart without their prefix length: the same one with another length has to go first. */
    if (error == EEXIST && addr->prefix.address.family == AF_INET6) {
        if (prune_type(pruning, RTM_GETADDR, RTM_DELADDR, address_is_obsolete))
            return -1;
        error = send_address(addr);
    }
    return error && error != EEXIST ? fail_netlink() : 0;
}

static void add_nic(struct pruning *pruning, int **indexes, int index)
{
    *indexes = grow(*indexes, pruning->nics, sizeof **indexes);
    (*indexes)[pruning->nics++] = index;
}

int prune_network(const struct document *document, const struct document *before)
{
    struct pruning pruning = {.document = document};
    char name[IFNAMSIZ];
    int *indexes = NULL, found, failed;

    for (const struct directive *nic = document->first; nic; nic = nic->next)
        if (nic->verb == NIC)
            add_nic(&pruning, &indexes, nic->nic_index);
    for (const struct directive *nic = before->first; nic; nic = nic->next)
        if (nic->verb == NIC && (found = nic_find(nic->mac, name)))
            add_nic(&pruning, &indexes, found);
    pruning.nic = indexes;
    failed = prune_type(pruning, RTM_GETADDR, RTM_DELADDR, address_is_obsolete)
             || prune_type(pruning, RTM_GETNEIGH, RTM_DELNEIGH, neighbour_is_obsolete)
             || prune_type(pruning, RTM_GETROUTE, RTM_DELROUTE, route_is_obsolete)
             || prune_type(pruning, RTM_GETRULE, RTM_DELRULE, rule_is_obsolete);
    free(indexes);
    return failed ? -1 : 0;
}
