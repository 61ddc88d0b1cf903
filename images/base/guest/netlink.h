/* Route netlink: requests with attributes, dumps, and the attributes of the kernel's answers. */
#ifndef NETLINK_H
#define NETLINK_H

#include "guest.h"

#include <linux/rtnetlink.h>

struct request {
    struct nlmsghdr header;
    char body[1024];
};

/* Begins a request; gives the zeroed header of its family (struct ifinfomsg, rtmsg, ...), of `size` bytes. */
void *request_begin(struct request *request, int type, int flags, size_t size);
void request_put(struct request *request, int type, const void *value, size_t size);
void request_put_address(struct request *request, int type, const struct address *address); /* nothing for no address */

/* Sends a message and awaits the kernel's answer: 0, or its errno. fail_netlink() describes the failure that happened last. */
int netlink_send(struct nlmsghdr *message);
int fail_netlink(void);

/* Asks for all objects of a type (RTM_GET...) and gives each to `take`. */
int netlink_dump(int type, void (*take)(const struct nlmsghdr *message, void *context), void *context);

/* The attribute's value, and its size; NULL where a message, whose family header has `header` bytes, has none of this type. */
const void *attribute(const struct nlmsghdr *message, size_t header, int type, size_t *size);
uint32_t attribute_number(const struct nlmsghdr *message, size_t header, int type); /* 0 where there is none */
/* Does the attribute say just this address? One that is missing is no address, and as good as one of zeros. */
bool attribute_is(const struct nlmsghdr *message, size_t header, int type, const struct address *address);

#endif
