/* Addresses, neighbours, routes and policy rules. To add what the kernel has already is no failure. */
#ifndef NETWORK_H
#define NETWORK_H

#include "document.h"

int add_address(struct directive *addr);
int add_neighbour(struct directive *neigh); /* brings the NIC up first, as the kernel demands; so does add_route */
int add_route(struct directive *route);
int add_rule(struct directive *rule);

/* Removes what the document does not name: from its NICs and from those of the document before, and policy rules that we made. */
int prune_network(const struct document *document, const struct document *before);

#endif
