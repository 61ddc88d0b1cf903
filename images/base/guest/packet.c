#include "packet.h"

#include <netinet/in.h>
#include <string.h>

static void put16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static uint32_t sum(uint32_t start, const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        start += i % 2 ? bytes[i] : (uint32_t)bytes[i] << 8;
    return start;
}

static uint16_t checksum(uint32_t total)
{
    while (total >> 16)
        total = (total & 0xffff) + (total >> 16);
    return (uint16_t)~total;
}

uint8_t echo_type(int family, bool reply)
{
    if (family == AF_INET)
        return reply ? 0 : 8;
    return reply ? 129 : 128;
}

size_t make_echo(uint8_t *out, int family, uint16_t id, uint16_t sequence, const uint8_t *payload, size_t size)
{
    if (size > PACKET_MOST - ECHO_HEADER)
        size = PACKET_MOST - ECHO_HEADER;
    memset(out, 0, ECHO_HEADER);
    out[0] = echo_type(family, false);
    put16(out + 4, id);
    put16(out + 6, sequence);
    memcpy(out + ECHO_HEADER, payload, size);
    if (family == AF_INET) /* the kernel makes the checksum of ICMPv6, which covers the addresses */
        put16(out + 2, checksum(sum(0, out, ECHO_HEADER + size)));
    return ECHO_HEADER + size;
}

bool is_echo(const uint8_t *message, size_t size, uint8_t type, uint16_t id, uint16_t sequence)
{
    uint8_t names[4];

    put16(names, id);
    put16(names + 2, sequence);
    return size >= ECHO_HEADER && message[0] == type && !memcmp(message + 4, names, sizeof names);
}

/* Writes the IP header of a packet with `size` bytes behind it, and returns the size of the header.
 * The kernel adds IPv4's checksum. */
static size_t put_ip(uint8_t *out, const struct flow *flow, uint8_t protocol, size_t size)
{
    const bool six = flow->target.family == AF_INET6;
    const size_t header = six ? 40 : 20, length = address_size(&flow->target);

    memset(out, 0, header);
    if (six) {
        out[0] = 0x60;
        put16(out + 4, (uint16_t)size);
        out[6] = protocol;
        out[7] = 64;
    } else {
        out[0] = 0x45;
        put16(out + 2, (uint16_t)(header + size));
        out[8] = 64;
        out[9] = protocol;
    }
    memcpy(out + header - 2 * length, flow->source.bytes, length);
    memcpy(out + header - length, flow->target.bytes, length);
    return header;
}

/* The checksum of a segment that begins with its ports. It covers the pseudo header, too. */
static uint16_t transport_checksum(const struct flow *flow, uint8_t protocol, const uint8_t *segment, size_t size)
{
    const size_t length = address_size(&flow->target);
    const uint32_t addresses = sum(sum(protocol + (uint32_t)size, flow->source.bytes, length), flow->target.bytes, length);
    const uint16_t result = checksum(sum(addresses, segment, size));

    /* In UDP, 0 means that there is no checksum. */
    return result || protocol == IPPROTO_TCP ? result : 0xffff;
}

size_t make_udp(uint8_t *out, const struct flow *flow, const uint8_t *payload, size_t size)
{
    const size_t most = PACKET_MOST - 40 - 8, length = 8 + (size > most ? most : size);
    const size_t header = put_ip(out, flow, IPPROTO_UDP, length);
    uint8_t *segment = out + header;

    put16(segment, flow->source_port);
    put16(segment + 2, flow->target_port);
    put16(segment + 4, (uint16_t)length);
    put16(segment + 6, 0);
    memcpy(segment + 8, payload, length - 8);
    put16(segment + 6, transport_checksum(flow, IPPROTO_UDP, segment, length));
    return header + length;
}

size_t make_syn(uint8_t *out, const struct flow *flow)
{
    const size_t length = 20, header = put_ip(out, flow, IPPROTO_TCP, length);
    uint8_t *segment = out + header;

    memset(segment, 0, length);
    put16(segment, flow->source_port);
    put16(segment + 2, flow->target_port);
    put16(segment + 4, flow->source_port); /* the initial sequence number, which may be any */
    segment[12] = 5 << 4;                  /* size of the header in words of 4 bytes */
    segment[13] = 0x02;                    /* SYN */
    put16(segment + 14, 64240);
    put16(segment + 16, transport_checksum(flow, IPPROTO_TCP, segment, length));
    return header + length;
}
