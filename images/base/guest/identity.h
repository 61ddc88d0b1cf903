/* The identity document: what its directives say, and those that change the network. */
#ifndef IDENTITY_H
#define IDENTITY_H

#include "guest.h"

#include <net/if.h>

enum { FIELDS_MOST = 8 }; /* route, with all its options */

struct directive {
    const struct document *document;
    struct directive *next;
    const struct verb *verb;
    int line;
    char *field[FIELDS_MOST]; /* behind the verb */
    int fields;

    const struct directive *nic;    /* addr, neigh, route: of their card */
    int card;                       /* nic: the index of the interface, once it was found */
    uint8_t mac[6];                 /* nic, neigh; mac: the one it has */
    uint8_t wanted[6];              /* mac */
    struct prefix prefix;           /* addr; route: the destination */
    struct address address;         /* neigh, rule */
    struct address gateway, source; /* route: or none */
    uint32_t table;                 /* route, rule */
    mode_t mode;                    /* dir, file */
    uint8_t *bytes;                 /* file, seed */
    size_t size;                    /* of the bytes */
    int64_t seconds, nanoseconds;   /* clock */
};

struct document {
    struct directive *first, *last;
    int line; /* the one at work, for error messages */
};

/* What the code has to tell apart. */
enum kind { OTHER, NIC, SYSCTL, ADDR, NEIGH, ROUTE, RULE, NAMES }; /* NAMES: a file */

enum kind kind_of(const struct directive *directive);

/* cards.c. A card is found by its MAC address, and known by the index of its interface from then on. */
int card_find(const uint8_t mac[6], char name[IFNAMSIZ]); /* the index, or 0 */
int card_readdress(struct directive *mac);                /* where there is such a card */
int card_take(struct directive *nic);                     /* waits for the card and gives it its name; it is not brought up */
int card_up(int card);
int loopback_up(void);

/* network.c. What the kernel has already is no failure. Routes and neighbours need their card to be up, and bring it up. */
int add_address(struct directive *addr);
int add_neighbour(struct directive *neigh);
int add_route(struct directive *route);
int add_rule(struct directive *rule);

/* Removes what the document does not name: from its cards and those of the document before it, and of our policy rules. */
int prune(const struct document *document, const struct document *before);

/* disk.c */
int mount_disk(const char *serial, const char *mountpoint);

#endif
