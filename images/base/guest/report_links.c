/* Links, and everything that sees their packets before the rules do: programs (XDP, tcx), queueing
 * disciplines and filters (tc). */
#include "netlink.h"
#include "report.h"

#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { TCX_INGRESS = 46, TCX_EGRESS = 47 };

struct links {
    int *index;
    size_t count;
};

static bool has_xdp(const struct nlmsghdr *message)
{
    size_t size, inner;
    const void *xdp = attribute(message, sizeof(struct ifinfomsg), IFLA_XDP, &size);
    const uint8_t *mode = xdp ? inner_attribute(xdp, size, IFLA_XDP_ATTACHED, &inner) : NULL;

    return mode && *mode;
}

/* `link NAME MAC KIND` (the kind of a network card is -), then further properties of the link. */
static void take_link(const struct nlmsghdr *message, void *context)
{
    const struct ifinfomsg *link = NLMSG_DATA(message);
    struct links *links = context;
    size_t size, inner, mac_size;
    const char *name = attribute(message, sizeof *link, IFLA_IFNAME, &size);
    const uint8_t *mac = attribute(message, sizeof *link, IFLA_ADDRESS, &mac_size);
    const void *info = attribute(message, sizeof *link, IFLA_LINKINFO, &size);
    const char *kind = info ? inner_attribute(info, size, IFLA_INFO_KIND, &inner) : NULL;
    const uint32_t master = attribute_number(message, sizeof *link, IFLA_MASTER);

    if (message->nlmsg_type != RTM_NEWLINK || !name)
        return;
    links->index = grow(links->index, links->count, sizeof *links->index);
    links->index[links->count++] = link->ifi_index;
    say_first("link");
    say("%s", name);
    if (mac && mac_size == 6)
        say("%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
    else
        say("-");
    say("%.*s", kind ? (int)inner : 1, kind ? kind : "-");
    if (master)
        say("master %s", link_name((int)master));
    if (has_xdp(message))
        say("xdp");
    if (link->ifi_flags & IFF_UP) {
        say_first("up");
        say("%s", name);
    }
}

/* How many programs are attached to a link by tcx, which needs no queueing discipline. An older
 * kernel has none. */
static uint32_t programs_at(int index, unsigned where)
{
    union bpf_attr query;

    memset(&query, 0, sizeof query);
    query.query.target_fd = (uint32_t)index; /* the kernel names it target_ifindex here */
    query.query.attach_type = where;
    return syscall(SYS_bpf, BPF_PROG_QUERY, &query, sizeof query) ? 0 : query.query.prog_cnt;
}

static void take_queue(const struct nlmsghdr *message, void *context)
{
    const struct tcmsg *queue = NLMSG_DATA(message);
    size_t size;
    const char *kind = attribute(message, sizeof *queue, TCA_KIND, &size);

    (void)context;
    if (message->nlmsg_type != RTM_NEWQDISC || !kind)
        return;
    say_first("qdisc");
    say("%s", link_name(queue->tcm_ifindex));
    say("%.*s %x", (int)size, kind, queue->tcm_handle >> 16);
}

static void take_filter(const struct nlmsghdr *message, void *context)
{
    const struct tcmsg *filter = NLMSG_DATA(message);
    size_t size;
    const char *kind = attribute(message, sizeof *filter, TCA_KIND, &size);

    (void)context;
    if (message->nlmsg_type != RTM_NEWTFILTER)
        return;
    say_first("filter");
    say("%s", link_name(filter->tcm_ifindex));
    say("%.*s", kind ? (int)size : 1, kind ? kind : "-");
}

/* The filters of a link's default queueing discipline. Other filters belong to a queueing discipline
 * that is reported as foreign itself. */
static void report_filters(int index)
{
    struct request request;
    struct tcmsg *message = request_begin(&request, RTM_GETTFILTER, NLM_F_DUMP, sizeof *message);

    message->tcm_ifindex = index;
    /* This fails for a queueing discipline that cannot have filters. */
    netlink_dump_by(NETLINK_ROUTE, &request, take_filter, NULL);
}

int report_links(void)
{
    struct links links = {0};
    struct request request;

    if (netlink_dump(RTM_GETLINK, take_link, &links))
        return -1;
    for (size_t i = 0; i < links.count; i++) {
        const uint32_t count = programs_at(links.index[i], TCX_INGRESS) + programs_at(links.index[i], TCX_EGRESS);

        if (count) {
            say_first("program");
            say("%s", link_name(links.index[i]));
        }
        report_filters(links.index[i]);
    }
    free(links.index);
    request_begin(&request, RTM_GETQDISC, NLM_F_DUMP, sizeof(struct tcmsg));
    return netlink_dump_by(NETLINK_ROUTE, &request, take_queue, NULL) ? fail_netlink() : 0;
}
