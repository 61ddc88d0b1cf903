/* The functions that netfilter calls: those of nft's chains, and any other. */
#include "netlink.h"
#include "report.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_hook.h>
#include <string.h>

static const struct {
    const char *name;
    uint8_t family;
    uint32_t hooks;
} families[] = {
    {"ip", NFPROTO_IPV4, NF_INET_NUMHOOKS},
    {"ip6", NFPROTO_IPV6, NF_INET_NUMHOOKS},
    {"arp", NFPROTO_ARP, 3},
    {"bridge", NFPROTO_BRIDGE, NF_INET_NUMHOOKS},
};

static void say_text(const struct nlmsghdr *message, int type, const char *otherwise)
{
    size_t size = 0;
    const char *value = attribute(message, sizeof(struct nfgenmsg), type, &size);

    if (value && size)
        say("%.*s", (int)size, value);
    else
        say("%s", otherwise);
}

static void say_inner_text(const void *attributes, size_t length, int type)
{
    size_t size = 0;
    const char *value = inner_attribute(attributes, length, type, &size);

    say("%.*s", value ? (int)size : 1, value ? value : "-");
}

/* `hook FAMILY NUMBER PRIORITY FUNCTION MODULE`, then `chain FAMILY TABLE NAME` if it is a
 * chain of nft's. */
static void take_hook(const struct nlmsghdr *message, void *context)
{
    const size_t header = sizeof(struct nfgenmsg);
    const char *where = context;
    size_t size, inner;
    const void *value = attribute(message, header, NFNLA_HOOK_CHAIN_INFO, &size);
    const void *chain = value ? inner_attribute(value, size, NFNLA_HOOK_INFO_DESC, &inner) : NULL;
    const uint8_t *family;

    if (message->nlmsg_type != NFNL_SUBSYS_HOOK << 8)
        return;
    say_first("hook");
    say("%s %d", where, (int)ntohl(attribute_number(message, header, NFNLA_HOOK_PRIORITY)));
    say_text(message, NFNLA_HOOK_FUNCTION_NAME, "?");
    say_text(message, NFNLA_HOOK_MODULE_NAME, "-");
    if (!chain)
        return;
    family = inner_attribute(chain, inner, NFNLA_CHAIN_FAMILY, &size);
    say("chain %d", family ? *family : 0);
    say_inner_text(chain, inner, NFNLA_CHAIN_TABLE);
    say_inner_text(chain, inner, NFNLA_CHAIN_NAME);
}

int report_hooks(void)
{
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        for (uint32_t number = 0; number < families[i].hooks; number++) {
            struct request request;
            struct nfgenmsg *message = request_begin(&request, NFNL_SUBSYS_HOOK << 8, NLM_F_DUMP, sizeof *message);
            const uint32_t in_order = htonl(number);
            char where[32];
            int error;

            message->nfgen_family = families[i].family;
            request_put(&request, NFNLA_HOOK_HOOKNUM, &in_order, sizeof in_order);
            snprintf(where, sizeof where, "%s %u", families[i].name, number);
            error = netlink_dump_by(NETLINK_NETFILTER, &request, take_hook, where);
            if (error && families[i].family != NFPROTO_ARP && families[i].family != NFPROTO_BRIDGE) {
                say_first("hook"); /* the kernel does not tell */
                say("%s unseen %d", where, error);
            }
        }
    }
    return 0;
}
