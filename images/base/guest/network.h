/* Addresses, neighbours, routes and policy rules. Adding an
 * object that the kernel already has is not a failure. */
#ifndef NETWORK_H
#define NETWORK_H

#include "document.h"

int add_address(struct directive *addr);
/* Brings the NIC up first, as the kernel demands; so does add_route. */
int add_neighbour(struct directive *neigh);
int add_route(struct directive *route);
int add_rule(struct directive *rule);
/* Packets that the guest forwards are routed only with the mark; its own packets always. */
int add_mark_rules(struct directive *route_mark);

/* Removes objects that the document does not name: those on its NICs and on the NICs of the earlier
 * document, and policy rules that this program made. With a route-mark line: those on all links, and
 * all policy rules but the kernel's own. */
int prune_network(const struct document *document, const struct document *before);

#endif
