/* The identity document: one directive a line, checked and turned into values, not applied yet.
 *
 *     hostname NAME               clock SECONDS.NANOSECONDS     dir PATH MODE USER:GROUP
 *     machine-id 32-HEX-DIGITS    seed BASE64                   file PATH MODE USER:GROUP [BASE64]
 *     mac MAC NEW-MAC             sysctl KEY VALUE              had PATH
 *     nic MAC NAME                neigh NIC ADDRESS MAC         disk SERIAL PATH
 *     addr NIC ADDRESS/LENGTH     route NIC PREFIX [via ADDRESS] [src ADDRESS] [table NUMBER]
 *     rule ADDRESS table NUMBER   route-mark NUMBER
 *
 * Images that were built earlier read the same documents. So never rename a word here, and never
 * change its meaning.
 */
#ifndef DOCUMENT_H
#define DOCUMENT_H

#include "guest.h"

enum { FIELDS_MOST = 8 }; /* a route with all its options */

enum verb { HOSTNAME, MACHINE_ID, CLOCK, SEED, MAC, NIC, SYSCTL, ADDR, NEIGH, ROUTE, RULE, ROUTE_MARK, DIRECTORY, FILE_CONTENT, HAD, DISK, VERBS };

struct directive {
    const struct document *document;
    struct directive *next;
    enum verb verb;
    int line;
    char *field[FIELDS_MOST]; /* the words after the verb */
    int fields;

    /* addr, neigh, route: the nic directive of the NIC that the line names. */
    const struct directive *nic;
    /* nic: the kernel's index of the interface, after the NIC was found. */
    int nic_index;
    uint8_t mac[6];                 /* nic, neigh; mac: the address that the NIC has now */
    uint8_t new_mac[6];             /* mac */
    struct prefix prefix;           /* addr; route: the destination */
    struct address address;         /* neigh, rule */
    struct address gateway, source; /* route; family 0 where the route has none */
    uint32_t table;                 /* route, rule */
    uint32_t mark;                  /* route-mark */
    mode_t mode;                    /* dir, file */
    uint8_t *bytes;                 /* file, seed */
    size_t size;                    /* number of bytes */
    int64_t seconds, nanoseconds;   /* clock */
};

/* The document that `guest boot` applies. */
#define KEPT_PATH "/etc/vcloud/identity"

struct document {
    struct directive *first, *last;
    int line; /* the line that is being worked on, for error messages */
};

const char *verb_name(enum verb verb);

/* Reads and checks a whole document. After a failure, `line` is the line that was refused. */
int document_parse(struct document *document, int fd);

/* Writes the directives that a later boot needs. Of files it writes only the paths: their contents
 * may be secret, and are on the disk already. */
void document_print_kept(const struct document *document, FILE *out);

bool document_names_file(const struct document *document, const char *path);

#endif
