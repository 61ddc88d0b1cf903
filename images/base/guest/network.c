/* Addresses, neighbours, routes and policy rules: added when the document names them, removed when
 * it does not. */
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
    MARK_RULES = 3,
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

/* One policy rule. A `source` of family 0, a `mark` of 0 and a false `own` are not part of the rule's
 * selector. With `table` 0 the rule drops the packets that it selects. */
struct rule {
    int family;
    uint32_t priority, mark, table;
    bool own; /* only what this guest sends itself */
    struct address source;
};

static int send_rule(const struct rule *rule)
{
    /* For the kernel, packets of the guest itself come in by this interface. */
    static const char own[] = "lo";
    struct request request;
    struct fib_rule_hdr *message = request_begin(&request, RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, sizeof *message);
    const uint32_t every_bit = UINT32_MAX;
    const uint8_t origin = ORIGIN;
    int error;

    message->family = (uint8_t)rule->family;
    message->src_len = rule->source.family ? (uint8_t)(8 * address_size(&rule->source)) : 0;
    message->action = rule->table ? FR_ACT_TO_TBL : FR_ACT_BLACKHOLE;
    request_put_address(&request, FRA_SRC, &rule->source);
    if (rule->table)
        request_put(&request, FRA_TABLE, &rule->table, sizeof rule->table);
    if (rule->mark) {
        request_put(&request, FRA_FWMARK, &rule->mark, sizeof rule->mark);
        request_put(&request, FRA_FWMASK, &every_bit, sizeof every_bit);
    }
    if (rule->own)
        request_put(&request, FRA_IIFNAME, own, sizeof own);
    request_put(&request, FRA_PRIORITY, &rule->priority, sizeof rule->priority);
    request_put(&request, FRA_PROTOCOL, &origin, sizeof origin);
    error = netlink_send(&request.header);
    return error && error != EEXIST ? fail_netlink() : 0;
}

int add_rule(struct directive *rule)
{
    const struct rule wanted = {
        .family = rule->address.family, .priority = RULE_PRIORITY, .table = rule->table, .source = rule->address};

    return send_rule(&wanted);
}

/* The rules of a route-mark line, in one version of IP. The kernel asks them before its own,
 * which route everything. */
static void mark_rules(const struct directive *route_mark, int family, struct rule rules[MARK_RULES])
{
    rules[0] = (struct rule){.family = family, .priority = RULE_PRIORITY, .mark = route_mark->mark, .table = RT_TABLE_MAIN};
    rules[1] = (struct rule){.family = family, .priority = RULE_PRIORITY + 1, .own = true, .table = RT_TABLE_MAIN};
    rules[2] = (struct rule){.family = family, .priority = RULE_PRIORITY + 2};
}

int add_mark_rules(struct directive *route_mark)
{
    static const int families[] = {AF_INET, AF_INET6};
    struct rule rules[MARK_RULES];

    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        mark_rules(route_mark, families[i], rules);
        for (int j = 0; j < MARK_RULES; j++)
            if (send_rule(&rules[j]))
                return -1;
    }
    return 0;
}

/* --- removal of what the document does not name --- */

struct pruning {
    const struct document *document;
    const int *nic; /* indexes of the NICs to look at */
    size_t nics;
    /* Prune all links, whoever made an object. This is so if only marked packets are routed, because
     * then no other route or rule is allowed. */
    bool all;
    bool (*is_obsolete)(const struct nlmsghdr *message, const struct pruning *pruning);
    struct nlmsghdr **found;
    size_t count;
};

static bool is_ours(const struct pruning *pruning, int index)
{
    for (size_t i = 0; i < pruning->nics; i++)
        if (pruning->nic[i] == index)
            return true;
    return pruning->all;
}

static bool is_ip(int family)
{
    return family == AF_INET || family == AF_INET6;
}

static bool address_is_obsolete(const struct nlmsghdr *message, const struct pruning *pruning)
{
    const struct ifaddrmsg *address = NLMSG_DATA(message);
    const int type = address->ifa_family == AF_INET ? IFA_LOCAL : IFA_ADDRESS;

    if (!is_ours(pruning, (int)address->ifa_index))
        return false;
    if (address->ifa_scope == RT_SCOPE_HOST || (address->ifa_family == AF_INET6 && address->ifa_scope == RT_SCOPE_LINK))
        return false; /* of the loopback, or the kernel's own */
    for (const struct directive *addr = pruning->document->first; addr; addr = addr->next)
        if (addr->verb == ADDR && addr->nic->nic_index == (int)address->ifa_index
            && addr->prefix.address.family == address->ifa_family && addr->prefix.length == address->ifa_prefixlen
            && attribute_is(message, sizeof *address, type, &addr->prefix.address))
            return false;
    return true;
}

/* Does the kernel never ask for this neighbour by ARP or ND, because somebody has set it? The kernel
 * itself makes such entries for the loopback, for groups and for broadcasts. */
static bool neighbour_is_set(const struct ndmsg *entry)
{
    enum { LOOPBACK = 1 };

    return entry->ndm_state & NUD_PERMANENT || entry->ndm_flags & NTF_EXT_LEARNED
           || (entry->ndm_state & NUD_NOARP && entry->ndm_type == RTN_UNICAST && entry->ndm_ifindex != LOOPBACK);
}

static bool neighbour_is_obsolete(const struct nlmsghdr *message, const struct pruning *pruning)
{
    const struct ndmsg *entry = NLMSG_DATA(message);

    if (!is_ours(pruning, entry->ndm_ifindex) || !neighbour_is_set(entry))
        return false;
    for (const struct directive *neigh = pruning->document->first; neigh; neigh = neigh->next)
        if (neigh->verb == NEIGH && neigh->nic->nic_index == entry->ndm_ifindex
            && neigh->address.family == entry->ndm_family && attribute_is(message, sizeof *entry, NDA_DST, &neigh->address))
            return false;
    return true;
}

/* Does the kernel make this route by itself for an address of the document, or for the link
 * alone? */
static bool is_of_kernel(const struct nlmsghdr *message, int index, const struct pruning *pruning)
{
    const struct rtmsg *entry = NLMSG_DATA(message);
    size_t size;
    const uint8_t *to = attribute(message, sizeof *entry, RTA_DST, &size);

    if (entry->rtm_protocol != RTPROT_KERNEL)
        return false;
    if (!pruning->all || entry->rtm_table == RT_TABLE_LOCAL)
        return true;
    if (!to || (entry->rtm_family == AF_INET6 && to[0] == 0xfe && (to[1] & 0xc0) == 0x80))
        return to != NULL;
    for (const struct directive *addr = pruning->document->first; addr; addr = addr->next) {
        struct address net = {0};

        if (addr->verb != ADDR || addr->nic->nic_index != index || addr->prefix.address.family != entry->rtm_family
            || addr->prefix.length != entry->rtm_dst_len)
            continue;
        for (int bit = 0; bit < addr->prefix.length; bit++)
            net.bytes[bit / 8] |= addr->prefix.address.bytes[bit / 8] & (uint8_t)(0x80 >> bit % 8);
        if (!memcmp(net.bytes, to, size))
            return true;
    }
    return false;
}

static bool route_is_obsolete(const struct nlmsghdr *message, const struct pruning *pruning)
{
    const struct rtmsg *entry = NLMSG_DATA(message);
    const uint32_t table = attribute_number(message, sizeof *entry, RTA_TABLE);
    size_t size;
    const struct rtnexthop *several = attribute(message, sizeof *entry, RTA_MULTIPATH, &size);
    const int index = several ? several->rtnh_ifindex : (int)attribute_number(message, sizeof *entry, RTA_OIF);

    if (!is_ip(entry->rtm_family) || !is_ours(pruning, index) || is_of_kernel(message, index, pruning) || entry->rtm_flags & RTM_F_CLONED)
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

static bool is_mark_rule(const struct nlmsghdr *message, const struct directive *route_mark)
{
    const struct fib_rule_hdr *entry = NLMSG_DATA(message);
    struct rule rules[MARK_RULES];
    size_t size;

    mark_rules(route_mark, entry->family, rules);
    for (int i = 0; i < MARK_RULES; i++)
        if (attribute_number(message, sizeof *entry, FRA_PRIORITY) == rules[i].priority
            && attribute_number(message, sizeof *entry, FRA_FWMARK) == rules[i].mark
            && attribute_number(message, sizeof *entry, FRA_TABLE) == rules[i].table
            && !!attribute(message, sizeof *entry, FRA_IIFNAME, &size) == rules[i].own && !entry->src_len)
            return true;
    return false;
}

static bool rule_is_obsolete(const struct nlmsghdr *message, const struct pruning *pruning)
{
    const struct fib_rule_hdr *entry = NLMSG_DATA(message);
    size_t size;
    const uint8_t *origin = attribute(message, sizeof *entry, FRA_PROTOCOL, &size);

    if (!is_ip(entry->family) || !origin || size != sizeof *origin || !(*origin == ORIGIN || (pruning->all && *origin != RTPROT_KERNEL)))
        return false;
    for (const struct directive *line = pruning->document->first; line; line = line->next) {
        if (line->verb == RULE && line->address.family == entry->family
            && line->table == attribute_number(message, sizeof *entry, FRA_TABLE)
            && attribute_is(message, sizeof *entry, FRA_SRC, &line->address))
            return false;
        if (line->verb == ROUTE_MARK && is_mark_rule(message, line))
            return false;
    }
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

/* The message with which the kernel shows an object is also, with the type RTM_DEL..., the request
 * that removes it. */
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
        /* the kernel has already removed objects that depended on an earlier one */
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

    /* For the kernel, two equal IPv6 addresses with different prefix lengths are the same address. So
     * the one with the other length must be removed first. */
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

    for (const struct directive *d = document->first; d; d = d->next) {
        pruning.all |= d->verb == ROUTE_MARK;
        if (d->verb == NIC)
            add_nic(&pruning, &indexes, d->nic_index);
    }
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
