/* Addresses, neighbours, routes and policy rules. To add what the kernel has already is no
 * failure. */
#ifndef NETWORK_H
#define NETWORK_H

#include "document.h"

int add_address(struct directive *addr);
/* Brings the NIC up first, as the kernel demands; so does add_route. */
int add_neighbour(struct directive *neigh);
int add_route(struct directive *route);
int add_rule(struct directive *rule);
/* The packets of others are routed only with the mark; the guest's own always. */
int add_mark_rules(struct directive *route_mark);

/* Removes what the document does not name: from its NICs and from those of the document before, and
 * policy rules that we made. With a route-mark line: from all links, and policy rules of anybody
 * but the kernel. */
int prune_network(const struct document *document, const struct document *before);

#endif
