/* The grammar of the identity document. Its text is hostile until every line of it is checked. */
#include "document.h"

#include <net/if.h>
#include <stdlib.h>
#include <string.h>

static const char letters_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/* Does the text have 1 to `most` characters, all of them letters, digits or one of `others`? */
static bool is_word(const char *text, const char *others, size_t most)
{
    const size_t length = strlen(text);

    for (const char *c = text; *c; c++)
        if (!strchr(letters_digits, *c) && !strchr(others, *c))
            return false;
    return length && length <= most;
}

static int parse_hostname(struct directive *d)
{
    const char *name = d->field[0];

    if (!is_word(name, "-.", 64) || strchr("-.", name[0]) || strchr("-.", name[strlen(name) - 1]) || strstr(name, ".."))
        return fail("'%.80s' is not a host name", name);
    return 0;
}

static int parse_machine_id(struct directive *d)
{
    if (strlen(d->field[0]) != 32 || strspn(d->field[0], "0123456789abcdef") != 32)
        return fail("'%.80s' is not 32 hexadecimal digits", d->field[0]);
    return 0;
}

static int parse_clock(struct directive *d)
{
    char *point = strchr(d->field[0], '.'), digits[] = "000000000";
    uint64_t seconds, nanoseconds;

    if (!point || strlen(point + 1) > 9)
        return fail("'%.40s' is not SECONDS.NANOSECONDS", d->field[0]);
    /* .5 is half a second: missing digits are zeros. */
    memcpy(digits, point + 1, strlen(point + 1));
    *point = 0;
    if (parse_number(d->field[0], 0, INT32_MAX * UINT64_C(4), &seconds) || parse_number(digits, 0, 999999999, &nanoseconds))
        return -1;
    d->seconds = (int64_t)seconds;
    d->nanoseconds = (int64_t)nanoseconds;
    return 0;
}

static int parse_entropy(struct directive *d)
{
    if (base64_decode(d->field[0], &d->bytes, &d->size))
        return -1;
    return d->size >= 16 && d->size <= 512 ? 0 : fail("a seed has 16 to 512 bytes");
}

static int parse_mac_change(struct directive *d)
{
    return parse_mac(d->field[0], d->mac) || parse_mac(d->field[1], d->new_mac) ? -1 : 0;
}

static int parse_nic(struct directive *d)
{
    const char *name = d->field[1];

    if (parse_mac(d->field[0], d->mac))
        return -1;
    if (!is_word(name, "-._", IFNAMSIZ - 1) || !strcmp(name, ".") || !strcmp(name, "..") || !strcmp(name, "lo"))
        return fail("'%.40s' is not a name for a NIC", name);
    for (const struct directive *other = d->document->first; other; other = other->next)
        if (other->verb == NIC && (!strcmp(other->field[1], name) || !memcmp(other->mac, d->mac, 6)))
            return fail("line %d has a NIC of this name or MAC address already", other->line);
    return 0;
}

static int parse_sysctl(struct directive *d)
{
    char path[256] = "/";

    if (!is_word(d->field[0], "/-._:", 200) || check_path(strcat(path, d->field[0])))
        return fail("'%.80s' is not a key such as net/ipv4/ip_forward", d->field[0]);
    return 0;
}

/* Finds the nic directive of the NIC that the first field names. */
static int find_nic(struct directive *d)
{
    for (const struct directive *nic = d->document->first; nic; nic = nic->next)
        if (nic->verb == NIC && !strcmp(nic->field[1], d->field[0]))
            return d->nic = nic, 0;
    return fail("no nic line before this one names '%.40s'", d->field[0]);
}

static int parse_addr(struct directive *d)
{
    return find_nic(d) || parse_prefix(d->field[1], &d->prefix) ? -1 : 0;
}

static int parse_neigh(struct directive *d)
{
    return find_nic(d) || parse_address(d->field[1], &d->address) || parse_mac(d->field[2], d->mac) ? -1 : 0;
}

static int parse_table(const char *text, uint32_t *table)
{
    uint64_t number;

    if (parse_number(text, 1, UINT32_MAX, &number))
        return -1;
    *table = (uint32_t)number;
    return number == 255 ? fail("table 255 is the kernel's own") : 0;
}

static bool has_host_bits(const struct prefix *prefix)
{
    for (int bit = prefix->length; bit < (int)(8 * address_size(&prefix->address)); bit++)
        if (prefix->address.bytes[bit / 8] & 0x80 >> bit % 8)
            return true;
    return false;
}

static int parse_route(struct directive *d)
{
    if (find_nic(d) || parse_prefix(d->field[1], &d->prefix))
        return -1;
    if (has_host_bits(&d->prefix))
        return fail("'%.80s' has bits set beyond its length", d->field[1]);
    d->table = 254; /* main */
    for (int i = 2; i < d->fields; i += 2) {
        const char *option = d->field[i], *value = i + 1 < d->fields ? d->field[i + 1] : "";
        int wrong;

        if (!strcmp(option, "via"))
            wrong = parse_address(value, &d->gateway);
        else if (!strcmp(option, "src"))
            wrong = parse_address(value, &d->source);
        else if (!strcmp(option, "table"))
            wrong = parse_table(value, &d->table);
        else
            wrong = fail("'%.40s' is not via, src or table", option);
        if (wrong)
            return -1;
    }
    if ((d->gateway.family && d->gateway.family != d->prefix.address.family)
        || (d->source.family && d->source.family != d->prefix.address.family))
        return fail("IPv4 and IPv6 in one route");
    return 0;
}

static int parse_rule(struct directive *d)
{
    if (parse_address(d->field[0], &d->address))
        return -1;
    return strcmp(d->field[1], "table") ? fail("'%.40s' is not 'table'", d->field[1]) : parse_table(d->field[2], &d->table);
}

static int parse_route_mark(struct directive *d)
{
    uint64_t number;

    if (parse_number(d->field[0], 1, UINT32_MAX, &number))
        return -1;
    d->mark = (uint32_t)number;
    return 0;
}

static int parse_directory(struct directive *d)
{
    return check_path(d->field[0]) || parse_mode(d->field[1], &d->mode) ? -1 : 0;
}

static int parse_file(struct directive *d)
{
    static char empty[] = "";

    if (check_path(d->field[0]) || parse_mode(d->field[1], &d->mode))
        return -1;
    return base64_decode(d->fields == 4 ? d->field[3] : empty, &d->bytes, &d->size);
}

static int parse_had(struct directive *d)
{
    return check_path(d->field[0]);
}

static int parse_disk(struct directive *d)
{
    return is_word(d->field[0], "-._", 20) ? check_path(d->field[1]) : fail("'%.40s' is not the serial number of a disk", d->field[0]);
}

/* --- the document --- */

static const struct {
    const char *name;
    int least, most; /* number of fields */
    bool kept;       /* for later boots */
    int (*parse)(struct directive *directive);
} grammar[VERBS] = {
    [HOSTNAME] = {"hostname", 1, 1, true, parse_hostname},
    [MACHINE_ID] = {"machine-id", 1, 1, false, parse_machine_id},
    [CLOCK] = {"clock", 1, 1, false, parse_clock},
    [SEED] = {"seed", 1, 1, false, parse_entropy},
    [MAC] = {"mac", 2, 2, false, parse_mac_change},
    [NIC] = {"nic", 2, 2, true, parse_nic},
    [SYSCTL] = {"sysctl", 2, 2, true, parse_sysctl},
    [ADDR] = {"addr", 2, 2, true, parse_addr},
    [NEIGH] = {"neigh", 3, 3, true, parse_neigh},
    [ROUTE] = {"route", 2, 8, true, parse_route},
    [RULE] = {"rule", 3, 3, true, parse_rule},
    [ROUTE_MARK] = {"route-mark", 1, 1, true, parse_route_mark},
    [DIRECTORY] = {"dir", 3, 3, false, parse_directory},
    [FILE_CONTENT] = {"file", 3, 4, false, parse_file},
    [HAD] = {"had", 1, 1, true, parse_had},
    [DISK] = {"disk", 2, 2, true, parse_disk},
};

const char *verb_name(enum verb verb)
{
    return grammar[verb].name;
}

/* Only the value of a sysctl may hold spaces. */
static bool has_stray_space(const struct directive *d)
{
    return d->fields && d->fields == grammar[d->verb].most && d->verb != SYSCTL && strchr(d->field[d->fields - 1], ' ');
}

static int parse_fields(struct directive *d, char *fields)
{
    d->fields = split(fields, d->field, grammar[d->verb].most);
    if (d->fields < grammar[d->verb].least)
        return fail("%s: too few fields", verb_name(d->verb));
    if (has_stray_space(d))
        return fail("%s: too many fields", verb_name(d->verb));
    return grammar[d->verb].parse(d) ? fail_in(verb_name(d->verb)) : 0;
}

static int parse_line(struct document *document, char *line)
{
    /* After this, `line` is the text after the name, or NULL. */
    const char *name = strsep(&line, " ");
    enum verb verb = 0;
    struct directive *d;

    while (verb < VERBS && strcmp(grammar[verb].name, name))
        verb++;
    if (verb == VERBS)
        return fail("'%.40s' is no directive", name);
    d = grow(NULL, 0, sizeof *d);
    *d = (struct directive){.document = document, .verb = verb, .line = document->line};
    if (parse_fields(d, line))
        return -1;
    *(document->last ? &document->last->next : &document->first) = d;
    document->last = d;
    return 0;
}

int document_parse(struct document *document, int fd)
{
    struct input input = {0};
    char *line;

    *document = (struct document){0};
    if (input_read(&input, fd)) {
        document->line = input.line;
        return -1;
    }
    while ((line = input_line(&input))) {
        document->line = input.line;
        if (parse_line(document, line))
            return -1;
    }
    return 0;
}

static bool names_file(const struct directive *d)
{
    return d->verb == FILE_CONTENT || d->verb == HAD;
}

void document_print_kept(const struct document *document, FILE *out)
{
    for (const struct directive *d = document->first; d; d = d->next) {
        if (names_file(d)) {
            fprintf(out, "%s %s\n", verb_name(HAD), d->field[0]);
        } else if (grammar[d->verb].kept) {
            fputs(verb_name(d->verb), out);
            for (int i = 0; i < d->fields; i++)
                fprintf(out, " %s", d->field[i]);
            putc('\n', out);
        }
    }
}

bool document_names_file(const struct document *document, const char *path)
{
    for (const struct directive *d = document->first; d; d = d->next)
        if (names_file(d) && !strcmp(d->field[0], path))
            return true;
    return false;
}
