#include "netlink.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct {
    int fd[NETLINK_NETFILTER + 1]; /* protocol -> the only socket of it; 0 until it is opened */
    uint32_t sequence;
    int error;
    char detail[160]; /* how the kernel itself explains the failure, or empty */
    char answer[64 << 10] __attribute__((aligned(NLMSG_ALIGNTO)));
} kernel;

static int connect_kernel(int protocol)
{
    const int on = 1;
    int *fd = &kernel.fd[protocol];

    if (*fd)
        return 0;
    if ((*fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol)) < 0) {
        *fd = 0;
        return errno;
    }
    /* An old kernel refuses these options. Then it does not explain failures, but works. */
    setsockopt(*fd, SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on);
    setsockopt(*fd, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on);
    return 0;
}

void *request_begin(struct request *request, int type, int flags, size_t size)
{
    memset(request, 0, sizeof *request);
    request->header.nlmsg_type = (uint16_t)type;
    request->header.nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags);
    request->header.nlmsg_len = NLMSG_LENGTH(size);
    return NLMSG_DATA(&request->header);
}

void request_put(struct request *request, int type, const void *value, size_t size)
{
    size_t end = NLMSG_ALIGN(request->header.nlmsg_len);
    struct rtattr *attribute = (struct rtattr *)((char *)request + end);

    attribute->rta_type = (uint16_t)type;
    attribute->rta_len = (uint16_t)RTA_LENGTH(size);
    memcpy(RTA_DATA(attribute), value, size);
    request->header.nlmsg_len = (uint32_t)(end + RTA_LENGTH(size));
}

void request_put_address(struct request *request, int type, const struct address *address)
{
    if (address->family)
        request_put(request, type, address->bytes, address_size(address));
}

/* Keeps the error of an answer and the kernel's explanation, which may follow as an attribute. */
static int keep_error(const struct nlmsghdr *answer)
{
    const struct nlmsgerr *error = NLMSG_DATA(answer);
    const char *text;
    size_t size;

    kernel.error = -error->error;
    kernel.detail[0] = 0;
    if (answer->nlmsg_flags & NLM_F_ACK_TLVS && answer->nlmsg_flags & NLM_F_CAPPED
        && (text = attribute(answer, sizeof *error, NLMSGERR_ATTR_MSG, &size)))
        snprintf(kernel.detail, sizeof kernel.detail, "%.*s", (int)size, text);
    return kernel.error;
}

/* Sends a message and reads answers up to the last one: an acknowledgement, an error or the end of
 * a dump. */
static int talk(int protocol, struct nlmsghdr *message, void (*take)(const struct nlmsghdr *, void *), void *context)
{
    kernel.detail[0] = 0;
    if ((kernel.error = connect_kernel(protocol)))
        return kernel.error;
    message->nlmsg_seq = ++kernel.sequence;
    if (send(kernel.fd[protocol], message, message->nlmsg_len, 0) < 0)
        return kernel.error = errno;
    for (;;) {
        ssize_t size = recv(kernel.fd[protocol], kernel.answer, sizeof kernel.answer, 0);
        const struct nlmsghdr *answer = (const struct nlmsghdr *)kernel.answer;

        if (size < 0)
            return kernel.error = errno;
        for (; NLMSG_OK(answer, (size_t)size); answer = NLMSG_NEXT(answer, size)) {
            if (answer->nlmsg_seq != kernel.sequence)
                continue;
            if (answer->nlmsg_type == NLMSG_ERROR)
                return keep_error(answer);
            if (answer->nlmsg_type == NLMSG_DONE)
                return kernel.error = NLMSG_PAYLOAD(answer, 0) >= sizeof(int) ? -*(const int *)NLMSG_DATA(answer) : 0;
            if (take)
                take(answer, context);
        }
    }
}

int netlink_send(struct nlmsghdr *message)
{
    return talk(NETLINK_ROUTE, message, NULL, NULL);
}

int fail_netlink(void)
{
    if (kernel.detail[0])
        return fail("%s (%s)", strerror(kernel.error), kernel.detail);
    return fail("%s", strerror(kernel.error));
}

int netlink_dump_by(int protocol, struct request *request, void (*take)(const struct nlmsghdr *, void *), void *context)
{
    return talk(protocol, &request->header, take, context);
}

int netlink_dump(int type, void (*take)(const struct nlmsghdr *message, void *context), void *context)
{
    struct request request;

    /* The first byte of each header is the family; 0 means all families. */
    request_begin(&request, type, NLM_F_DUMP, sizeof(struct ifinfomsg));
    return netlink_dump_by(NETLINK_ROUTE, &request, take, context) ? fail_netlink() : 0;
}

const void *inner_attribute(const void *attributes, size_t length, int type, size_t *size)
{
    const struct rtattr *at = attributes;
    int left = (int)length;

    for (; RTA_OK(at, left); at = RTA_NEXT(at, left)) {
        if ((at->rta_type & NLA_TYPE_MASK) == type) {
            *size = RTA_PAYLOAD(at);
            return RTA_DATA(at);
        }
    }
    return NULL;
}

const void *attribute(const struct nlmsghdr *message, size_t header, int type, size_t *size)
{
    const char *first = (const char *)NLMSG_DATA(message) + NLMSG_ALIGN(header);
    const size_t left = message->nlmsg_len > NLMSG_SPACE(header) ? message->nlmsg_len - NLMSG_SPACE(header) : 0;

    return inner_attribute(first, left, type, size);
}

uint32_t attribute_number(const struct nlmsghdr *message, size_t header, int type)
{
    uint32_t number = 0;
    size_t size;
    const void *value = attribute(message, header, type, &size);

    if (value && size == sizeof number)
        memcpy(&number, value, sizeof number);
    return number;
}

bool attribute_is(const struct nlmsghdr *message, size_t header, int type, const struct address *address)
{
    static const uint8_t zeros[16];
    size_t size;
    const void *value = attribute(message, header, type, &size);

    if (!value)
        return !memcmp(address->bytes, zeros, sizeof zeros);
    return size == address_size(address) && !memcmp(value, address->bytes, size);
}
