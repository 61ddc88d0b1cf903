/* `guest report`: everything in the kernel's network that decides where packets go. vcloud compares
 * this with what it delivered.
 *
 * Each item is one text: `link`, `up`, `program`, `qdisc`, `filter` (report_links.c); `addr`,
 * `neigh`, `proxy`, `route`, `rule` (report_routing.c); `hook` (report_hooks.c), only if asked for,
 * because the question makes the kernel load nft's modules; and here `sysctl KEY VALUE`
 * for each setting of the kept identity, and `frames NIC` for each socket that reads and sends
 * frames past the rules. Items that the identity document can name are written in its words.
 */
#include "report.h"
#include "document.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

static char text[1024];
static size_t texts;

/* Ends the text that was begun. */
static void print_text(void)
{
    if (!*text)
        return;
    fputs(texts++ ? ", " : "[", stdout);
    json_string(stdout, text);
    *text = 0;
}

void say_first(const char *word)
{
    print_text();
    snprintf(text, sizeof text, "%s", word);
}

void say(const char *format, ...)
{
    const size_t length = strlen(text);
    va_list arguments;

    if (length + 1 >= sizeof text)
        return;
    text[length] = ' ';
    va_start(arguments, format);
    vsnprintf(text + length + 1, sizeof text - length - 1, format, arguments);
    va_end(arguments);
}

void say_address(int family, const void *bytes, size_t size, int length)
{
    struct address address = {.family = family};

    if (size > sizeof address.bytes || (family != AF_INET && family != AF_INET6)) {
        say("family%d", family);
        return;
    }
    memcpy(address.bytes, bytes, size);
    if (length < 0)
        say("%s", address_text(&address));
    else
        say("%s/%d", address_text(&address), length);
}

const char *link_name(int index)
{
    static char name[IFNAMSIZ + 16];

    if (!if_indextoname((unsigned)index, name))
        snprintf(name, sizeof name, "%d", index);
    return name;
}

/* A setting is asked for if the kept identity sets it. */
static void report_settings(void)
{
    struct document kept = {0};
    char value[80];
    const int fd = open(KEPT_PATH, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return;
    if (document_parse(&kept, fd))
        kept = (struct document){0};
    close(fd);
    for (const struct directive *d = kept.first; d; d = d->next) {
        if (d->verb != SYSCTL)
            continue;
        say_first("sysctl");
        say("%s", d->field[0]);
        say("%s", read_sysctl(d->field[0], value, sizeof value) ? "?" : value);
    }
}

static int report_packet_sockets(void)
{
    FILE *sockets = fopen("/proc/net/packet", "re");
    char line[256];
    int index;

    if (!sockets)
        return fail_errno("/proc/net/packet");
    while (fgets(line, sizeof line, sockets)) {
        if (sscanf(line, "%*s %*s %*s %*s %d", &index) != 1) /* the headline */
            continue;
        say_first("frames");
        say("%s", index ? link_name(index) : "any");
    }
    fclose(sockets);
    return 0;
}

int report(bool hooks)
{
    if (report_links() || report_routing() || (hooks && report_hooks()) || report_packet_sockets())
        return print_error(0);
    report_settings();
    print_text();
    puts(texts ? "]" : "[]");
    return 0;
}
