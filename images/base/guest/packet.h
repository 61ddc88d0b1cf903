/* Packets made by hand: echo requests, and packets with a forged source. */
#ifndef PACKET_H
#define PACKET_H

#include "guest.h"

enum { ECHO_HEADER = 8, PACKET_MOST = 2048 };

struct flow {
    struct address source, target;
    uint16_t source_port, target_port;
};

/* Each writes to `out`, which has PACKET_MOST bytes, and returns the size. A payload that does not
 * fit is cut. */
size_t make_echo(uint8_t *out, int family, uint16_t id, uint16_t sequence, const uint8_t *payload, size_t size);
/* The packet has an IP header. */
size_t make_udp(uint8_t *out, const struct flow *flow, const uint8_t *payload, size_t size);
/* The packet has an IP header. */
size_t make_syn(uint8_t *out, const struct flow *flow);

/* Is this ICMP message of that type, from an echo with this id and sequence? */
bool is_echo(const uint8_t *message, size_t size, uint8_t type, uint16_t id, uint16_t sequence);
uint8_t echo_type(int family, bool reply);

#endif
