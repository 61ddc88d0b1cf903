/* Failures, the lines of the input, and the values in them. */
#include "guest.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { INPUT_MOST = 32 << 20 };

char failure[256];

int fail(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(failure, sizeof failure, format, arguments);
    va_end(arguments);
    return -1;
}

int fail_errno(const char *what)
{
    return fail("%s: %s", what, strerror(errno));
}

int fail_in(const char *where)
{
    char what[sizeof failure];

    memcpy(what, failure, sizeof what);
    return fail("%s: %.*s", where, (int)sizeof failure - 32, what);
}

int print_error(int line)
{
    for (char *c = failure; *c; c++) /* messages quote the input, which is hostile */
        if (*c < ' ' || *c > '~')
            *c = '?';
    printf("error %d %s\n", line, failure);
    return 1;
}

int input_read(struct input *input, int fd)
{
    size_t size = 0, room = 64 << 10;
    ssize_t got = 1;
    char *text = malloc(room), *zero;

    for (; text && got > 0 && size < INPUT_MOST; size += (size_t)got) {
        if (room - size < 2)
            text = realloc(text, room *= 2);
        if (text && (got = read(fd, text + size, room - size - 1)) < 0)
            return fail_errno("read");
    }
    *input = (struct input){.text = text, .next = text};
    if (!text)
        return fail("out of memory");
    if (got > 0)
        return fail("more than %d bytes of input", INPUT_MOST);
    text[size] = 0;
    if ((zero = memchr(text, 0, size))) {
        for (char *c = text; c <= zero; c++)
            input->line += c == text || c[-1] == '\n';
        return fail("a zero byte");
    }
    return 0;
}

char *input_line(struct input *input)
{
    char *line;

    do {
        line = strsep(&input->next, "\n");
        input->line++;
    } while (line && !*line);
    return line;
}

int split(char *line, char **fields, int most)
{
    int count = 0;

    while (count < most - 1 && line)
        fields[count++] = strsep(&line, " ");
    if (line)
        fields[count++] = line;
    return count;
}

void *grow(void *array, size_t count, size_t element)
{
    /* The array doubles at each power of two, so there is room in between. */
    if (count & (count - 1))
        return array;
    array = reallocarray(array, count ? 2 * count : 1, element);
    if (!array) {
        fail("out of memory");
        exit(print_error(0));
    }
    return array;
}

int64_t monotonic_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000) + now.tv_nsec / 1000;
}

int parse_number(const char *text, uint64_t least, uint64_t most, uint64_t *number)
{
    size_t digits = strspn(text, "0123456789");

    *number = strtoull(text, NULL, 10);
    if (!digits || digits > 18 || text[digits] || *number < least || *number > most)
        return fail("'%.40s' is not a number from %llu to %llu", text, (unsigned long long)least, (unsigned long long)most);
    return 0;
}

int parse_mode(const char *text, mode_t *mode)
{
    size_t digits = strspn(text, "01234567");

    *mode = (mode_t)strtoul(text, NULL, 8);
    if (digits < 3 || digits > 4 || text[digits])
        return fail("'%.40s' is not a mode such as 0644", text);
    return 0;
}

static int hex_digit(char c)
{
    const char *digits = "0123456789abcdef", *found = c ? strchr(digits, c | 0x20) : NULL;

    return found ? (int)(found - digits) : -1;
}

int parse_mac(const char *text, uint8_t mac[6])
{
    if (strlen(text) != 17)
        return fail("'%.40s' is not a MAC address", text);
    for (int i = 0; i < 6; i++, text += 3) {
        int high = hex_digit(text[0]), low = hex_digit(text[1]);

        if (high < 0 || low < 0 || text[2] != (i < 5 ? ':' : 0))
            return fail("not a MAC address");
        mac[i] = (uint8_t)(high << 4 | low);
    }
    return 0;
}

int parse_address(const char *text, struct address *address)
{
    *address = (struct address){.family = strchr(text, ':') ? AF_INET6 : AF_INET};
    if (inet_pton(address->family, text, address->bytes) != 1)
        return fail("'%.60s' is not an IP address", text);
    return 0;
}

int parse_prefix(const char *text, struct prefix *prefix)
{
    char address[INET6_ADDRSTRLEN + 1] = "";
    const char *slash = strchr(text, '/');
    uint64_t length;

    if (!slash || slash - text > INET6_ADDRSTRLEN)
        return fail("'%.60s' is not ADDRESS/LENGTH", text);
    memcpy(address, text, (size_t)(slash - text));
    if (parse_address(address, &prefix->address) || parse_number(slash + 1, 0, 8 * address_size(&prefix->address), &length))
        return -1;
    prefix->length = (int)length;
    return 0;
}

size_t address_size(const struct address *address)
{
    return address->family == AF_INET6 ? 16 : 4;
}

bool same_address(const struct address *one, const struct address *other)
{
    return one->family == other->family && !memcmp(one->bytes, other->bytes, sizeof one->bytes);
}

socklen_t socket_address(const struct address *address, uint16_t port, struct sockaddr_storage *out)
{
    struct sockaddr_in *four = (struct sockaddr_in *)out;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)out;

    memset(out, 0, sizeof *out);
    out->ss_family = (sa_family_t)address->family;
    if (address->family == AF_INET6) {
        six->sin6_port = htons(port);
        memcpy(&six->sin6_addr, address->bytes, 16);
        return sizeof *six;
    }
    four->sin_port = htons(port);
    memcpy(&four->sin_addr, address->bytes, 4);
    return sizeof *four;
}

void address_of(const struct sockaddr_storage *from, struct address *address, uint16_t *port)
{
    const struct sockaddr_in *four = (const struct sockaddr_in *)from;
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)from;

    *address = (struct address){.family = from->ss_family};
    if (from->ss_family == AF_INET6)
        memcpy(address->bytes, &six->sin6_addr, 16);
    else
        memcpy(address->bytes, &four->sin_addr, 4);
    *port = ntohs(from->ss_family == AF_INET6 ? six->sin6_port : four->sin_port);
}

const char *address_text(const struct address *address)
{
    static char text[INET6_ADDRSTRLEN];

    return inet_ntop(address->family, address->bytes, text, sizeof text);
}

void json_string(FILE *out, const char *text)
{
    putc('"', out);
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            putc('\\', out);
        if ((unsigned char)*text < ' ')
            fprintf(out, "\\u%04x", *text);
        else
            putc(*text, out);
    }
    putc('"', out);
}
