/* `guest identity` and `guest boot`: who this guest is, as a document of directives.
 *
 * The whole document is parsed before any of it takes effect. Then its lines take effect in their order, but for one thing: cards are
 * brought up as late as can be (before the first route or neighbour, else at the end), with their addresses and settings in place.
 * At the end goes what the document before had named and this one does not: addresses, routes, files. What a later boot needs is kept;
 * of files their paths, because their contents may be secret and stand where they belong.
 */
#include "identity.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

static const char kept_path[] = "/etc/vcloud/identity";

struct verb {
    const char *name;
    int least, most; /* fields */
    bool kept;       /* for later boots */
    enum kind kind;
    int (*parse)(struct directive *directive);
    int (*apply)(struct directive *directive);
};

enum kind kind_of(const struct directive *directive)
{
    return directive->verb->kind;
}

/* --- parse: from hostile text to values --- */

static const char letters_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/* Is the text made of letters, digits and the other characters given, not empty and within `most` characters? */
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
    memcpy(digits, point + 1, strlen(point + 1)); /* as in a decimal fraction, missing digits are zeros */
    *point = 0;
    if (parse_number(d->field[0], 0, INT32_MAX * UINT64_C(4), &seconds) || parse_number(digits, 0, 999999999, &nanoseconds))
        return -1;
    d->seconds = (int64_t)seconds;
    d->nanoseconds = (int64_t)nanoseconds;
    return 0;
}

static int parse_seed(struct directive *d)
{
    if (base64_decode(d->field[0], &d->bytes, &d->size))
        return -1;
    return d->size >= 16 && d->size <= 512 ? 0 : fail("a seed has 16 to 512 bytes");
}

static int parse_change(struct directive *d)
{
    return parse_mac(d->field[0], d->mac) || parse_mac(d->field[1], d->wanted) ? -1 : 0;
}

static int parse_nic(struct directive *d)
{
    const char *name = d->field[1];

    if (parse_mac(d->field[0], d->mac))
        return -1;
    if (!is_word(name, "-._", IFNAMSIZ - 1) || !strcmp(name, ".") || !strcmp(name, "..") || !strcmp(name, "lo"))
        return fail("'%.40s' is not a name for a card", name);
    for (const struct directive *other = d->document->first; other; other = other->next)
        if (kind_of(other) == NIC && (!strcmp(other->field[1], name) || !memcmp(other->mac, d->mac, 6)))
            return fail("line %d names this card already", other->line);
    return 0;
}

static int parse_sysctl(struct directive *d)
{
    char path[256] = "/";

    if (!is_word(d->field[0], "/-._:", 200) || check_path(strcat(path, d->field[0])))
        return fail("'%.80s' is not a key such as net/ipv4/ip_forward", d->field[0]);
    return 0;
}

/* Finds the card that the first field names. */
static int parse_card(struct directive *d)
{
    for (const struct directive *nic = d->document->first; nic; nic = nic->next)
        if (kind_of(nic) == NIC && !strcmp(nic->field[1], d->field[0]))
            return d->nic = nic, 0;
    return fail("no nic line before names a card '%.40s'", d->field[0]);
}

static int parse_addr(struct directive *d)
{
    return parse_card(d) || parse_prefix(d->field[1], &d->prefix) ? -1 : 0;
}

static int parse_neigh(struct directive *d)
{
    return parse_card(d) || parse_address(d->field[1], &d->address) || parse_mac(d->field[2], d->mac) ? -1 : 0;
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
    if (parse_card(d) || parse_prefix(d->field[1], &d->prefix))
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

static int parse_dir(struct directive *d)
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

/* --- apply --- */

static int apply_hostname(struct directive *d)
{
    char line[80];

    if (sethostname(d->field[0], strlen(d->field[0])))
        return fail("%s", strerror(errno));
    snprintf(line, sizeof line, "%s\n", d->field[0]);
    return write_file("/etc/hostname", line, strlen(line), 0644, 0, 0);
}

static int apply_machine_id(struct directive *d)
{
    char line[34];

    snprintf(line, sizeof line, "%s\n", d->field[0]);
    return write_file("/etc/machine-id", line, strlen(line), 0444, 0, 0);
}

static int apply_clock(struct directive *d)
{
    const struct timespec now = {.tv_sec = d->seconds, .tv_nsec = (long)d->nanoseconds};

    return clock_settime(CLOCK_REALTIME, &now) ? fail("%s", strerror(errno)) : 0;
}

/* Clones of one memory image have the same random numbers before them; after this they have not. */
static int apply_seed(struct directive *d)
{
    struct {
        struct rand_pool_info info; /* ends in a flexible array: the bytes */
        uint8_t bytes[512];
    } pool = {.info = {.entropy_count = (int)(8 * d->size), .buf_size = (int)d->size}};
    int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC), broken;

    if (fd < 0)
        return fail_errno("/dev/urandom");
    memcpy(pool.bytes, d->bytes, d->size);
    broken = ioctl(fd, RNDADDENTROPY, &pool) || ioctl(fd, RNDRESEEDCRNG);
    if (broken)
        fail("%s", strerror(errno));
    close(fd);
    return broken ? -1 : 0;
}

static int apply_sysctl(struct directive *d)
{
    return write_sysctl(d->field[0], d->field[1]);
}

static int apply_dir(struct directive *d)
{
    uid_t user;
    gid_t group;

    return find_owner(d->field[2], &user, &group) || make_directory(d->field[0], d->mode, user, group) ? -1 : 0;
}

static int apply_file(struct directive *d)
{
    uid_t user;
    gid_t group;

    return find_owner(d->field[2], &user, &group) || write_file(d->field[0], d->bytes, d->size, d->mode, user, group) ? -1 : 0;
}

static int apply_nothing(struct directive *d)
{
    (void)d;
    return 0;
}

static int apply_disk(struct directive *d)
{
    return mount_disk(d->field[0], d->field[1]);
}

/* --- the document --- */

/* Puts the place in front of the failure that was described last. */
static int fail_in(const char *place)
{
    char what[sizeof failure];

    memcpy(what, failure, sizeof what);
    return fail("%s: %.*s", place, (int)sizeof failure - 32, what);
}

static const struct verb verbs[] = {
    {"hostname", 1, 1, true, OTHER, parse_hostname, apply_hostname},
    {"machine-id", 1, 1, false, OTHER, parse_machine_id, apply_machine_id},
    {"clock", 1, 1, false, OTHER, parse_clock, apply_clock},
    {"seed", 1, 1, false, OTHER, parse_seed, apply_seed},
    {"mac", 2, 2, false, OTHER, parse_change, card_readdress},
    {"nic", 2, 2, true, NIC, parse_nic, card_take},
    {"sysctl", 2, 2, true, SYSCTL, parse_sysctl, apply_sysctl},
    {"addr", 2, 2, true, ADDR, parse_addr, add_address},
    {"neigh", 3, 3, true, NEIGH, parse_neigh, add_neighbour},
    {"route", 2, 8, true, ROUTE, parse_route, add_route},
    {"rule", 3, 3, true, RULE, parse_rule, add_rule},
    {"dir", 3, 3, false, OTHER, parse_dir, apply_dir},
    {"file", 3, 4, false, NAMES, parse_file, apply_file},
    {"had", 1, 1, true, NAMES, parse_had, apply_nothing}, /* a file of the document that is kept */
    {"disk", 2, 2, true, OTHER, parse_disk, apply_disk},
};

static int parse_line(struct document *document, char *line)
{
    const size_t count = sizeof verbs / sizeof *verbs;
    const char *name = strsep(&line, " "); /* the line goes on behind it, or is NULL */
    const struct verb *verb = verbs;
    struct directive *d;

    while (verb < verbs + count && strcmp(verb->name, name))
        verb++;
    if (verb == verbs + count)
        return fail("'%.40s' is no directive", name);
    d = grow(NULL, 0, sizeof *d);
    *d = (struct directive){.document = document, .verb = verb, .line = document->line};
    d->fields = split(line, d->field, verb->most);
    if (d->fields < verb->least)
        return fail("%s: too few fields", name);
    if (d->fields > verb->most || (d->fields == verb->most && d->fields && verb->kind != SYSCTL && strchr(d->field[d->fields - 1], ' ')))
        return fail("%s: too many fields", name);
    if (verb->parse(d))
        return fail_in(name);
    *(document->last ? &document->last->next : &document->first) = d;
    document->last = d;
    return 0;
}

static int parse_document(struct document *document, int fd)
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

static int apply_lines(struct document *document)
{
    for (struct directive *d = document->first; d; d = d->next) {
        document->line = d->line;
        if (d->verb->apply(d))
            return fail_in(d->verb->name);
    }
    return 0;
}

static int bring_up(struct document *document)
{
    for (const struct directive *d = document->first; d; d = d->next) {
        document->line = d->line;
        if (kind_of(d) == NIC && card_up(d->card))
            return fail_in("nic");
    }
    return 0;
}

/* Reads what is kept of the document before. One that cannot be read is as good as none: it is about to be replaced. */
static struct document document_before(void)
{
    struct document before = {0};
    int fd = open(kept_path, O_RDONLY | O_CLOEXEC);

    if (fd >= 0 && parse_document(&before, fd))
        before = (struct document){0};
    if (fd >= 0)
        close(fd);
    return before;
}

static int keep(const struct document *document)
{
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    int failed;

    if (!out)
        return fail_errno(kept_path);
    for (const struct directive *d = document->first; d; d = d->next) {
        if (kind_of(d) == NAMES)
            fprintf(out, "had %s\n", d->field[0]);
        if (kind_of(d) == NAMES || !d->verb->kept)
            continue;
        fputs(d->verb->name, out);
        for (int i = 0; i < d->fields; i++)
            fprintf(out, " %s", d->field[i]);
        putc('\n', out);
    }
    if (fclose(out))
        return fail_errno(kept_path);
    failed = write_file(kept_path, text, size, 0600, 0, 0);
    free(text);
    return failed;
}

static bool names_file(const struct document *document, const char *path)
{
    for (const struct directive *d = document->first; d; d = d->next)
        if (kind_of(d) == NAMES && !strcmp(d->field[0], path))
            return true;
    return false;
}

/* Host keys come with the first document only, and stay. */
static int prune_files(const struct document *document, const struct document *before)
{
    static const char host_keys[] = "/etc/ssh/ssh_host_";

    for (const struct directive *d = before->first; d; d = d->next) {
        const char *path = d->field[0];

        if (kind_of(d) == NAMES && strncmp(path, host_keys, sizeof host_keys - 1) && !names_file(document, path) && unlink(path) && errno != ENOENT)
            return fail_errno(path);
    }
    return 0;
}

static int apply_document(struct document *document)
{
    const struct document before = document_before();

    document->line = 0; /* of what belongs to no line */
    if (loopback_up())
        return fail_in("lo");
    if (apply_lines(document) || bring_up(document))
        return -1;
    document->line = 0;
    if (prune(document, &before) || prune_files(document, &before))
        return fail_in("removal of what is not named");
    return keep(document);
}

static int take_document(int fd)
{
    struct document document;

    if (parse_document(&document, fd) || apply_document(&document))
        return print_error(document.line);
    puts("ok");
    return 0;
}

/* At a boot, the boot's own run and that of `vcloud up` may meet: they take turns, and who comes second reads what the first one kept. */
static int take_turn(void)
{
    const int fd = open("/run", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    return fd < 0 || flock(fd, LOCK_EX) ? fail_errno("/run") : 0;
}

int identity(void)
{
    return take_turn() ? print_error(0) : take_document(STDIN_FILENO);
}

int boot(void)
{
    int fd;

    if (take_turn())
        return print_error(0);
    fd = open(kept_path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno != ENOENT) {
        fail_errno(kept_path);
        return print_error(0);
    }
    if (fd < 0) { /* nobody yet */
        puts("ok");
        return 0;
    }
    return take_document(fd);
}
