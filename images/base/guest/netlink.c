#include "netlink.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct {
    int fd; /* of the only socket; 0 until it is opened */
    uint32_t sequence;
    int error;
    char detail[160]; /* how the kernel itself explains the failure, or empty */
    char answer[64 << 10] __attribute__((aligned(NLMSG_ALIGNTO)));
} kernel;

static int connect_kernel(void)
{
    const int on = 1;

    if (kernel.fd)
        return 0;
    if ((kernel.fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE)) < 0) {
        kernel.fd = 0;
        return errno;
    }
    setsockopt(kernel.fd, SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on); /* an old kernel refuses these, explains no failures, and works */
    setsockopt(kernel.fd, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on);
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

/* Sends a message and reads answers up to the last one: an acknowledgement, an error or the end of a dump. */
static int talk(struct nlmsghdr *message, void (*take)(const struct nlmsghdr *, void *), void *context)
{
    kernel.detail[0] = 0;
    if ((kernel.error = connect_kernel()))
        return kernel.error;
    message->nlmsg_seq = ++kernel.sequence;
    if (send(kernel.fd, message, message->nlmsg_len, 0) < 0)
        return kernel.error = errno;
    for (;;) {
        ssize_t size = recv(kernel.fd, kernel.answer, sizeof kernel.answer, 0);
        const struct nlmsghdr *answer = (const struct nlmsghdr *)kernel.answer;

        if (size < 0)
            return kernel.error = errno;
        for (; NLMSG_OK(answer, (size_t)size); answer = NLMSG_NEXT(answer, size)) {
            if (answer->nlmsg_seq != kernel.sequence)
                continue;
            if (answer->nlmsg_type == NLMSG_ERROR)
                return keep_error(answer);
            if (answer->nlmsg_type == NLMSG_DONE)
                return 0;
            if (take)
                take(answer, context);
        }
    }
}

int netlink_send(struct nlmsghdr *message)
{
    return talk(message, NULL, NULL);
}

int fail_netlink(void)
{
    if (kernel.detail[0])
        return fail("%s (%s)", strerror(kernel.error), kernel.detail);
    return fail("%s", strerror(kernel.error));
}

int netlink_dump(int type, void (*take)(const struct nlmsghdr *message, void *context), void *context)
{
    struct request request;

    request_begin(&request, type, NLM_F_DUMP, sizeof(struct ifinfomsg)); /* in each header the first byte is the family; 0 stands for all */
    return talk(&request.header, take, context) ? fail_netlink() : 0;
}

const void *attribute(const struct nlmsghdr *message, size_t header, int type, size_t *size)
{
    const struct rtattr *at = (const struct rtattr *)((const char *)NLMSG_DATA(message) + NLMSG_ALIGN(header));
    size_t left = message->nlmsg_len > NLMSG_SPACE(header) ? message->nlmsg_len - NLMSG_SPACE(header) : 0;

    for (; RTA_OK(at, left); at = RTA_NEXT(at, left)) {
        if (at->rta_type == type) {
            *size = RTA_PAYLOAD(at);
            return RTA_DATA(at);
        }
    }
    return NULL;
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
