/* Addresses, neighbours, routes and policy rules, in the words of the identity document if it
 * has any for them. */
#include "netlink.h"
#include "report.h"

#include <linux/fib_rules.h>
#include <linux/neighbour.h>
#include <string.h>

enum { USER_METRIC6 = 1024, KERNEL_METRIC6 = 256 };

/* Reports attributes that the item should not have. */
static void say_others(const struct nlmsghdr *message, size_t header, const int *known, size_t count)
{
    const char *first = (const char *)NLMSG_DATA(message) + NLMSG_ALIGN(header);
    const struct rtattr *at = (const struct rtattr *)first;
    int left = (int)message->nlmsg_len - (int)NLMSG_SPACE(header);

    for (; RTA_OK(at, left); at = RTA_NEXT(at, left)) {
        size_t i = 0;

        while (i < count && known[i] != (at->rta_type & NLA_TYPE_MASK))
            i++;
        if (i == count)
            say("attribute%d", at->rta_type & NLA_TYPE_MASK);
    }
}

static void say_attribute(const struct nlmsghdr *message, size_t header, int type, const char *word, int family, int length)
{
    size_t size;
    const void *value = attribute(message, header, type, &size);

    if (!value)
        return;
    if (*word)
        say("%s", word);
    say_address(family, value, size, length);
}

static void take_address(const struct nlmsghdr *message, void *context)
{
    const struct ifaddrmsg *address = NLMSG_DATA(message);
    const int type = address->ifa_family == AF_INET ? IFA_LOCAL : IFA_ADDRESS;

    (void)context;
    if (message->nlmsg_type != RTM_NEWADDR)
        return;
    say_first("addr");
    say("%s", link_name((int)address->ifa_index));
    say_attribute(message, sizeof *address, type, "", address->ifa_family, address->ifa_prefixlen);
}

/* `neigh NIC ADDRESS MAC`, then `noarp` or `extern` if it is not permanent. Only neighbours that the
 * kernel never asks for by ARP or ND; those that it learnt by them come and go. */
static void take_neighbour(const struct nlmsghdr *message, void *context)
{
    const struct ndmsg *entry = NLMSG_DATA(message);
    const bool proxy = entry->ndm_flags & NTF_PROXY;
    size_t size;
    const uint8_t *mac = attribute(message, sizeof *entry, NDA_LLADDR, &size);

    (void)context;
    if (message->nlmsg_type != RTM_NEWNEIGH
        || !(proxy || entry->ndm_state & (NUD_PERMANENT | NUD_NOARP) || entry->ndm_flags & NTF_EXT_LEARNED))
        return;
    say_first(proxy ? "proxy" : "neigh");
    say("%s", link_name(entry->ndm_ifindex));
    say_attribute(message, sizeof *entry, NDA_DST, "", entry->ndm_family, -1);
    if (mac && size == 6)
        say("%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
    if (!proxy && !(entry->ndm_state & NUD_PERMANENT))
        say(entry->ndm_state & NUD_NOARP ? "noarp" : "extern");
}

static bool is_usual_metric(const struct rtmsg *route, uint32_t metric)
{
    if (route->rtm_family == AF_INET6)
        return metric == (route->rtm_protocol == RTPROT_KERNEL ? KERNEL_METRIC6 : USER_METRIC6) || (!metric && route->rtm_table == RT_TABLE_LOCAL);
    return !metric;
}

/* `route NIC PREFIX [via ADDRESS] [src ADDRESS] [table NUMBER]`, then `kernel` if the
 * kernel made the route itself, and further properties. */
static void take_route(const struct nlmsghdr *message, void *context)
{
    static const int known[] = {RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_TABLE, RTA_CACHEINFO, RTA_PREF};
    static const uint8_t anywhere[16];
    const struct rtmsg *route = NLMSG_DATA(message);
    const uint32_t table = attribute_number(message, sizeof *route, RTA_TABLE);
    const uint32_t link = attribute_number(message, sizeof *route, RTA_OIF);
    const uint32_t metric = attribute_number(message, sizeof *route, RTA_PRIORITY);
    size_t size;
    const bool to_some = attribute(message, sizeof *route, RTA_DST, &size);

    (void)context;
    if (message->nlmsg_type != RTM_NEWROUTE || route->rtm_flags & RTM_F_CLONED)
        return;
    say_first("route");
    say("%s", link ? link_name((int)link) : "-");
    if (to_some)
        say_attribute(message, sizeof *route, RTA_DST, "", route->rtm_family, route->rtm_dst_len);
    else
        say_address(route->rtm_family, anywhere, route->rtm_family == AF_INET ? 4 : 16, 0);
    say_attribute(message, sizeof *route, RTA_GATEWAY, "via", route->rtm_family, -1);
    if (route->rtm_protocol != RTPROT_KERNEL || route->rtm_family == AF_INET6)
        say_attribute(message, sizeof *route, RTA_PREFSRC, "src", route->rtm_family, -1);
    if (table != RT_TABLE_MAIN)
        say("table %u", table);
    if (route->rtm_protocol == RTPROT_KERNEL)
        say("kernel");
    else if (route->rtm_type != RTN_UNICAST)
        say("type%d", route->rtm_type);
    if (!is_usual_metric(route, metric))
        say("metric %u", metric);
    if (route->rtm_tos)
        say("tos %d", route->rtm_tos);
    say_others(message, sizeof *route, known, sizeof known / sizeof *known);
}

/* `rule VERSION PRIORITY`, the packets that it selects (all, if nothing more is said), and what
 * happens to them. */
static void take_rule(const struct nlmsghdr *message, void *context)
{
    static const int known[] = {FRA_DST, FRA_SRC, FRA_IIFNAME, FRA_OIFNAME, FRA_PRIORITY, FRA_FWMARK, FRA_FWMASK, FRA_TABLE, FRA_PROTOCOL, FRA_SUPPRESS_PREFIXLEN};
    const struct fib_rule_hdr *rule = NLMSG_DATA(message);
    const uint32_t mark = attribute_number(message, sizeof *rule, FRA_FWMARK);
    const uint32_t mask = attribute_number(message, sizeof *rule, FRA_FWMASK);
    const uint32_t suppressed = attribute_number(message, sizeof *rule, FRA_SUPPRESS_PREFIXLEN);
    size_t size;
    const char *in = attribute(message, sizeof *rule, FRA_IIFNAME, &size);
    const char *out = attribute(message, sizeof *rule, FRA_OIFNAME, &size);

    (void)context;
    /* Rules of multicast routing are left out. */
    if (message->nlmsg_type != RTM_NEWRULE || rule->family == RTNL_FAMILY_IPMR || rule->family == RTNL_FAMILY_IP6MR)
        return;
    say_first("rule");
    say("%s", rule->family == AF_INET6 ? "6" : rule->family == AF_INET ? "4" : "other");
    say("%u", attribute_number(message, sizeof *rule, FRA_PRIORITY));
    if (rule->flags & FIB_RULE_INVERT)
        say("not");
    say_attribute(message, sizeof *rule, FRA_SRC, "from", rule->family, rule->src_len);
    say_attribute(message, sizeof *rule, FRA_DST, "to", rule->family, rule->dst_len);
    if (in)
        say("iif %s", in);
    if (out)
        say("oif %s", out);
    if (mark || mask)
        say("mark %u", mark);
    if (mask && mask != UINT32_MAX)
        say("mask %u", mask);
    if (rule->tos)
        say("tos %d", rule->tos);
    if (rule->action == FR_ACT_TO_TBL)
        say("table %u", attribute_number(message, sizeof *rule, FRA_TABLE));
    else
        say(rule->action == FR_ACT_BLACKHOLE ? "blackhole" : "action%d", rule->action);
    if (suppressed && suppressed != UINT32_MAX)
        say("suppress %u", suppressed);
    say_others(message, sizeof *rule, known, sizeof known / sizeof *known);
}

static int report_proxies(void)
{
    struct request request;
    struct ndmsg *message = request_begin(&request, RTM_GETNEIGH, NLM_F_DUMP, sizeof *message);

    message->ndm_flags = NTF_PROXY;
    return netlink_dump_by(NETLINK_ROUTE, &request, take_neighbour, NULL) ? fail_netlink() : 0;
}

int report_routing(void)
{
    return netlink_dump(RTM_GETADDR, take_address, NULL) || netlink_dump(RTM_GETNEIGH, take_neighbour, NULL) || report_proxies()
                   || netlink_dump(RTM_GETROUTE, take_route, NULL) || netlink_dump(RTM_GETRULE, take_rule, NULL)
               ? -1
               : 0;
}
