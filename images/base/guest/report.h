/* The output of `guest report`: a JSON list of texts, one for each item of the kernel's network. */
#ifndef REPORT_H
#define REPORT_H

#include "guest.h"

/* One text. Its words follow in any number of calls of say(), each of which puts a space before
 * its word. */
void say_first(const char *word);
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Adds /LENGTH if it is not negative. */
void say_address(int family, const void *bytes, size_t size, int length);

/* The name of an interface, or its index if it has no name. */
const char *link_name(int index);

int report_links(void);   /* links, their programs, their queues and filters */
int report_routing(void); /* addresses, neighbours, routes, policy rules */
int report_hooks(void);   /* functions that netfilter calls */

#endif
