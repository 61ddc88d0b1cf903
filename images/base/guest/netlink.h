/* Netlink: requests with attributes, dumps, and the attributes of the kernel's answers. All
 * requests go to route netlink, unless a function has a protocol as an argument. */
#ifndef NETLINK_H
#define NETLINK_H

#include "guest.h"

#include <linux/rtnetlink.h>

struct request {
    struct nlmsghdr header;
    char body[1024];
};

/* Begins a request. Returns the zeroed header of `size` bytes for its kind of object (struct
 * ifinfomsg, rtmsg, ...). */
void *request_begin(struct request *request, int type, int flags, size_t size);
void request_put(struct request *request, int type, const void *value, size_t size);
/* Adds nothing if the family is 0. */
void request_put_address(struct request *request, int type, const struct address *address);

/* Sends a message, waits for the kernel's answer and returns 0 or its errno. fail_netlink()
 * describes the last failure. */
int netlink_send(struct nlmsghdr *message);
int fail_netlink(void);

/* Asks for all objects of a type (RTM_GET...) and calls `take` for each. */
int netlink_dump(int type, void (*take)(const struct nlmsghdr *message, void *context), void *context);
/* The same with the caller's own request, which must have the flag NLM_F_DUMP, to a protocol
 * (NETLINK_ROUTE, ...). `take` must not send requests. Returns 0 or the kernel's errno. */
int netlink_dump_by(int protocol, struct request *request, void (*take)(const struct nlmsghdr *, void *), void *context);

/* The value of an attribute and its size; NULL if the message has none of this type. `header` is the
 * size of the message's own header. */
const void *attribute(const struct nlmsghdr *message, size_t header, int type, size_t *size);
/* 0 if there is no such attribute. */
uint32_t attribute_number(const struct nlmsghdr *message, size_t header, int type);
/* The same for an attribute within an attribute, whose value and size are `attributes` and
 * `length`. */
const void *inner_attribute(const void *attributes, size_t length, int type, size_t *size);
/* Does the attribute hold this address? A missing attribute counts as an address of zeros. */
bool attribute_is(const struct nlmsghdr *message, size_t header, int type, const struct address *address);

#endif
