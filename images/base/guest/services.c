/* `guest start-services`: lets systemd start what multi-user.target wants, and waits until it is done.
 *
 * `systemctl start` would do the same, but loads a library of 4 MB for it, which takes 0.2 s in an emulated guest. systemd's own socket
 * speaks D-Bus without a bus: https://dbus.freedesktop.org/doc/dbus-specification.html. The call is StartUnit, and the signal JobRemoved
 * says how the job ended: https://www.freedesktop.org/software/systemd/man/latest/org.freedesktop.systemd1.html.
 */
#include "guest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

static const char socket_path[] = "/run/systemd/private";
static const char target[] = "multi-user.target";
static const char target_path[] = "/usr/lib/systemd/system/multi-user.target";
static const char default_path[] = "/etc/systemd/system/default.target";

enum { METHOD_RETURN = 2, ERROR = 3, SIGNAL = 4 };                            /* types of messages */
enum { PATH = 1, INTERFACE = 2, MEMBER = 3, DESTINATION = 6, SIGNATURE = 8 }; /* codes of header fields */
enum { MESSAGE_MOST = 256 << 10 };

struct header {
    uint8_t order, type, flags, version; /* the order of bytes is 'l', little-endian, as x86 has it */
    uint32_t body, serial, fields;       /* sizes in bytes of what follows: the fields, padding to 8, the body */
};

/* --- writing --- */

struct writer {
    char bytes[512];
    size_t size;
};

static void put(struct writer *out, const void *bytes, size_t size)
{
    memcpy(out->bytes + out->size, bytes, size);
    out->size += size;
}

static void pad(struct writer *out, size_t multiple)
{
    while (out->size % multiple)
        out->bytes[out->size++] = 0;
}

static void put_string(struct writer *out, const char *text)
{
    const uint32_t length = (uint32_t)strlen(text);

    pad(out, 4);
    put(out, &length, sizeof length);
    put(out, text, length + 1);
}

/* A header field: its code, the signature of its value and the value. */
static void put_field(struct writer *out, uint8_t code, char type, const char *value)
{
    const uint8_t start[] = {code, 1, (uint8_t)type, 0}, length = (uint8_t)strlen(value);

    pad(out, 8);
    put(out, start, sizeof start);
    if (type != 'g') {
        put_string(out, value);
        return;
    }
    put(out, &length, sizeof length); /* a signature has a length of one byte */
    put(out, value, length + 1U);
}

static void write_call(struct writer *out)
{
    struct header header = {.order = 'l', .type = 1, .version = 1, .serial = 1};
    size_t body;

    out->size = sizeof header;
    put_field(out, PATH, 'o', "/org/freedesktop/systemd1");
    put_field(out, INTERFACE, 's', "org.freedesktop.systemd1.Manager");
    put_field(out, MEMBER, 's', "StartUnit");
    put_field(out, DESTINATION, 's', "org.freedesktop.systemd1");
    put_field(out, SIGNATURE, 'g', "ss");
    header.fields = (uint32_t)(out->size - sizeof header);
    pad(out, 8);
    body = out->size;
    put_string(out, target);
    put_string(out, "replace");
    header.body = (uint32_t)(out->size - body);
    memcpy(out->bytes, &header, sizeof header);
}

/* --- reading --- */

static int read_all(int fd, void *bytes, size_t size)
{
    for (char *at = bytes; size;) {
        const ssize_t got = read(fd, at, size);

        if (got <= 0)
            return got ? fail_errno(socket_path) : fail("%s: systemd has closed the connection", socket_path);
        at += got;
        size -= (size_t)got;
    }
    return 0;
}

struct message {
    struct header header;
    const char *body; /* with a zero byte behind it; valid until the next message is read */
};

static int read_message(int fd, struct message *message)
{
    static char rest[MESSAGE_MOST + 1];
    struct header *header = &message->header;
    size_t fields;

    if (read_all(fd, header, sizeof *header))
        return -1;
    fields = ((size_t)header->fields + 7) / 8 * 8;
    if (header->order != 'l' || header->fields > MESSAGE_MOST || header->body > MESSAGE_MOST || fields + header->body > MESSAGE_MOST)
        return fail("%s: no message of D-Bus", socket_path);
    if (read_all(fd, rest, fields + header->body))
        return -1;
    rest[fields + header->body] = 0;
    message->body = rest + fields;
    return 0;
}

/* The string of the body at the offset `at`, which moves behind it; NULL where there is none. */
static const char *body_string(const struct message *message, size_t *at)
{
    uint32_t length;
    const char *text;

    *at = (*at + 3) / 4 * 4;
    if (*at + sizeof length > message->header.body)
        return NULL;
    memcpy(&length, message->body + *at, sizeof length);
    *at += sizeof length;
    if (length >= message->header.body - *at)
        return NULL;
    text = message->body + *at;
    *at += length + 1;
    return text;
}

/* --- the job --- */

static int connect_systemd(void)
{
    static const char login[] = "\0AUTH EXTERNAL 30\r\nBEGIN\r\n"; /* 30 is "0", the user number of root, in hexadecimal */
    struct sockaddr_un there = {.sun_family = AF_UNIX};
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char answer[64] = "";
    size_t size = 0;

    memcpy(there.sun_path, socket_path, sizeof socket_path);
    if (fd < 0 || connect(fd, (struct sockaddr *)&there, sizeof there) || write(fd, login, sizeof login - 1) != sizeof login - 1)
        return fail_errno(socket_path);
    while (!size || answer[size - 1] != '\n')
        if (size == sizeof answer - 1 || read_all(fd, answer + size++, 1))
            return fail_in("login");
    return strncmp(answer, "OK ", 3) ? fail("%s: systemd refuses the login", socket_path) : fd;
}

/* Reads up to the answer to our call; `job` is the path of the job that it has begun. */
static int read_job(int fd, char job[256])
{
    struct message message;
    const char *text;
    size_t at = 0;

    do {
        if (read_message(fd, &message))
            return -1;
    } while (message.header.type != METHOD_RETURN && message.header.type != ERROR);
    text = body_string(&message, &at);
    if (message.header.type == ERROR || !text || strlen(text) >= 256)
        return fail("%s: %.150s", target, text ? text : "no reason");
    strcpy(job, text);
    return 0;
}

/* How the job ended, where the message is the signal JobRemoved (number, job, unit, result) of it; otherwise NULL. */
static const char *result_of(const struct message *message, const char *job)
{
    size_t at = sizeof(uint32_t);
    const char *path = message->header.type == SIGNAL ? body_string(message, &at) : NULL;

    if (!path || strcmp(path, job))
        return NULL;
    body_string(message, &at);
    return body_string(message, &at); /* the signal JobNew has no result */
}

static int await_job(int fd, const char *job)
{
    struct message message;
    const char *result;

    do {
        if (read_message(fd, &message))
            return -1;
    } while (!(result = result_of(&message, job)));
    return strcmp(result, "done") ? fail("%s: %.80s", target, result) : 0;
}

/* From now on the VM boots to its services. systemd does not load a unit while one of its names changes, so that this comes last. */
static int change_default(void)
{
    static const char fresh[] = "/etc/systemd/system/default.target.vcloud-new";

    unlink(fresh); /* of a run that was cut off */
    return symlink(target_path, fresh) || rename(fresh, default_path) ? fail_errno(default_path) : 0;
}

int start_services(void)
{
    struct writer call = {0};
    char job[256];
    const int fd = connect_systemd();

    write_call(&call);
    if (fd < 0 || write(fd, call.bytes, call.size) != (ssize_t)call.size || read_job(fd, job) || await_job(fd, job) || change_default())
        return print_error(0);
    close(fd);
    return 0;
}
