/* `guest identity` and `guest boot`: makes this guest the VM that a document describes.
 *
 * The whole document is checked before any of it is applied. Then its directives are applied in
 * their order, with one exception: a NIC is brought up as late as possible, that is before its first
 * route or neighbour, or else at the end. It then has its addresses and settings already. At the
 * end, the program removes addresses, routes and files that the earlier document named and this one
 * does not.
 *
 * If vcloud is killed, its `guest identity` goes on in the guest, maybe beside that of the next run.
 * Each run of vcloud has a higher number than all before it, so the guest can refuse a document that
 * comes late.
 */
#include "disk.h"
#include "document.h"
#include "network.h"
#include "nics.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

static const char kept_path[] = KEPT_PATH, newest_path[] = "/run/vcloud-identity";

enum {
    LATE = 76,
};

#define LAST_RUN 999999999999999999 /* as long as parse_number allows */

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

/* Without entropy of their own, VMs that woke from the same memory image would get the same random
 * numbers. */
static int apply_entropy(struct directive *d)
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

static int apply_directory(struct directive *d)
{
    uid_t user;
    gid_t group;

    return find_owner(d->field[2], &user, &group) || make_directory(d->field[0], d->mode, user, group) ? -1 : 0;
}

static int apply_file(struct directive *d)
{
    uid_t user;
    gid_t group;

    if (find_owner(d->field[2], &user, &group))
        return -1;
    if (is_written(d->field[0], d->bytes, d->size, d->mode, user, group))
        return 0;
    return note_change(d->field[0]) || write_file(d->field[0], d->bytes, d->size, d->mode, user, group) ? -1 : 0;
}

/* `had` is a file of an earlier document. It is only compared with this document. */
static int apply_had(struct directive *d)
{
    (void)d;
    return 0;
}

static int apply_disk(struct directive *d)
{
    return mount_disk(d->field[0], d->field[1]);
}

static int (*const apply[VERBS])(struct directive *) = {
    [HOSTNAME] = apply_hostname,
    [MACHINE_ID] = apply_machine_id,
    [CLOCK] = apply_clock,
    [SEED] = apply_entropy,
    [MAC] = nic_change_mac,
    [NIC] = nic_take,
    [SYSCTL] = apply_sysctl,
    [ADDR] = add_address,
    [NEIGH] = add_neighbour,
    [ROUTE] = add_route,
    [RULE] = add_rule,
    [ROUTE_MARK] = add_mark_rules,
    [DIRECTORY] = apply_directory,
    [FILE_CONTENT] = apply_file,
    [HAD] = apply_had,
    [DISK] = apply_disk,
};

/* --- the document as a whole --- */

static int apply_lines(struct document *document)
{
    for (struct directive *d = document->first; d; d = d->next) {
        document->line = d->line;
        if (apply[d->verb](d))
            return fail_in(verb_name(d->verb));
    }
    return 0;
}

static int bring_up(struct document *document)
{
    for (const struct directive *d = document->first; d; d = d->next) {
        document->line = d->line;
        if (d->verb == NIC && nic_up(d->nic_index))
            return fail_in(verb_name(d->verb));
    }
    return 0;
}

/* The document that was stored last. If it cannot be read, it counts as empty, because it is about
 * to be replaced. */
static struct document document_before(void)
{
    struct document before = {0};
    int fd = open(kept_path, O_RDONLY | O_CLOEXEC);

    if (fd >= 0 && document_parse(&before, fd))
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
    document_print_kept(document, out);
    if (fclose(out))
        return fail_errno(kept_path);
    failed = write_file(kept_path, text, size, 0600, 0, 0);
    free(text);
    return failed;
}

/* Removes the files that only the earlier document names. Host keys are kept, because only a VM's
 * first document has them. */
static int prune_files(const struct document *document, const struct document *before)
{
    static const char host_keys[] = "/etc/ssh/ssh_host_";

    for (const struct directive *d = before->first; d; d = d->next) {
        const char *path = d->field[0];
        const bool is_file = d->verb == HAD || d->verb == FILE_CONTENT;

        if (!is_file || !strncmp(path, host_keys, sizeof host_keys - 1) || document_names_file(document, path))
            continue;
        if (!access(path, F_OK) && note_change(path))
            return -1;
        if (unlink(path) && errno != ENOENT)
            return fail_errno(path);
    }
    return 0;
}

static int apply_document(struct document *document)
{
    const struct document before = document_before();

    document->line = 0; /* a failure here belongs to no line */
    if (loopback_up())
        return fail_in("lo");
    if (apply_lines(document) || bring_up(document))
        return -1;
    document->line = 0;
    if (prune_network(document, &before) || prune_files(document, &before))
        return fail_in("removal of what is not named");
    return keep(document);
}

static int take_document(int fd)
{
    struct document document;

    if (document_parse(&document, fd) || apply_document(&document))
        return print_error(document.line);
    puts("ok");
    return print_changes() ? print_error(0) : 0;
}

/* While a VM boots, `guest boot` and the `guest identity` of `vcloud up` may run at the same time.
 * The second one waits for the first, and then reads the document that the first one stored. */
static int take_turn(void)
{
    const int fd = open("/run", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    return fd < 0 || flock(fd, LOCK_EX) ? fail_errno("/run") : 0;
}

/* The highest number of all runs that have given this guest an identity. */
static uint64_t newest_run(void)
{
    char text[24] = "";
    uint64_t newest = 0;
    int fd = open(newest_path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return 0;
    if (read(fd, text, sizeof text - 1) < 0 || parse_number(text, 0, LAST_RUN, &newest))
        newest = 0; /* nobody but this program writes the file, whole */
    close(fd);
    return newest;
}

int identity(const char *run)
{
    uint64_t number, newest;

    if (parse_number(run, 0, LAST_RUN, &number) || take_turn())
        return print_error(0);
    newest = newest_run();
    if (number < newest) {
        fail("run %llu has given an identity before this one of run %s", (unsigned long long)newest, run);
        print_error(0);
        return LATE;
    }
    if (write_file(newest_path, run, strlen(run), 0600, 0, 0))
        return print_error(0);
    return take_document(STDIN_FILENO);
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
    if (fd < 0) { /* no identity was given yet */
        puts("ok");
        return 0;
    }
    return take_document(fd);
}
