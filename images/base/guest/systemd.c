/* The calls to systemd that the guest program makes.
 *
 * systemctl would do the same, but loads a library of 4 MB for it, which takes 0.2 s in an
 * emulated guest. systemd's own socket speaks D-Bus without a bus:
 * https://dbus.freedesktop.org/doc/dbus-specification.html. A call that starts a job answers
 * with the path of the job, and the signal JobRemoved says how the job ended:
 * https://www.freedesktop.org/software/systemd/man/latest/org.freedesktop.systemd1.html.
 */
#include "systemd.h"

#include <errno.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

static const char socket_path[] = "/run/systemd/private";

/* Types of messages. */
enum { METHOD_RETURN = 2, ERROR = 3, SIGNAL = 4 };
/* Codes of header fields. */
enum { PATH = 1, INTERFACE = 2, MEMBER = 3, DESTINATION = 6, SIGNATURE = 8 };
enum { MESSAGE_MOST = 256 << 10, PATH_MOST = 800, FAILED_MOST = 20 };

struct header {
    /* The order of bytes is 'l': little-endian, as on x86. */
    uint8_t order, type, flags, version;
    /* Sizes in bytes of what follows: the fields, padding to 8, the body. */
    uint32_t body, serial, fields;
};

/* --- writing --- */

struct writer {
    char bytes[2048]; /* enough for a call with the name or the path of a unit */
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

/* The arguments of a call, all of them strings: each for itself ("s", "ss"), or as one list
 * ("as"). The list ends with NULL. */
static void put_arguments(struct writer *out, const char *signature, const char *const *arguments)
{
    uint32_t length = 0;
    const size_t list = out->size;

    if (*signature == 'a')
        put(out, &length, sizeof length);
    while (*arguments)
        put_string(out, *arguments++);
    length = (uint32_t)(out->size - list - sizeof length);
    if (*signature == 'a')
        memcpy(out->bytes + list, &length, sizeof length);
}

struct call {
    const char *path, *interface, *member, *signature;
    const char *const *arguments;
};

static void write_call(struct writer *out, const struct call *call)
{
    struct header header = {.order = 'l', .type = 1, .version = 1, .serial = 1};
    size_t body;

    out->size = sizeof header;
    put_field(out, PATH, 'o', call->path);
    put_field(out, INTERFACE, 's', call->interface);
    put_field(out, MEMBER, 's', call->member);
    put_field(out, DESTINATION, 's', "org.freedesktop.systemd1");
    if (*call->signature)
        put_field(out, SIGNATURE, 'g', call->signature);
    header.fields = (uint32_t)(out->size - sizeof header);
    pad(out, 8);
    body = out->size;
    put_arguments(out, call->signature, call->arguments);
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

/* The string in the body at the offset `at`, which moves behind it; NULL if there is none. */
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

/* --- calls --- */

int systemd_connect(void)
{
    /* 30 is "0", the user number of root, in hexadecimal. */
    static const char login[] = "\0AUTH EXTERNAL 30\r\nBEGIN\r\n";
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

/* Makes a call and reads up to its answer. If systemd refuses the call about `what`, the failure has
 * systemd's own message. */
static int make_call(int fd, const char *what, const struct call *call, struct message *answer)
{
    struct writer out = {0};
    const char *reason;
    size_t at = 0;

    write_call(&out, call);
    if (write(fd, out.bytes, out.size) != (ssize_t)out.size)
        return fail_errno(socket_path);
    do {
        if (read_message(fd, answer))
            return -1;
    } while (answer->header.type != METHOD_RETURN && answer->header.type != ERROR);
    if (answer->header.type == METHOD_RETURN)
        return 0;
    reason = body_string(answer, &at);
    return fail("%s: %.150s", what, reason ? reason : "no reason");
}

static int call_manager(int fd, const char *what, const char *member, const char *signature, const char *const *arguments,
                        struct message *answer)
{
    const struct call call = {"/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", member, signature, arguments};

    return make_call(fd, what, &call, answer);
}

/* The result of the job if the message is its signal JobRemoved (number, job, unit, result);
 * otherwise NULL. */
static const char *result_of(const struct message *message, const char *job)
{
    size_t at = sizeof(uint32_t);
    const char *path = message->header.type == SIGNAL ? body_string(message, &at) : NULL;

    if (!path || strcmp(path, job))
        return NULL;
    body_string(message, &at);
    return body_string(message, &at); /* the signal JobNew has no result */
}

static int check_unit(const char *unit)
{
    return strlen(unit) > UNIT_MOST ? fail("the name of a unit has more than %d characters", UNIT_MOST) : 0;
}

int systemd_job(int fd, const char *member, const char *unit)
{
    struct message message;
    const char *text;
    char job[256];
    size_t at = 0;

    if (check_unit(unit) || call_manager(fd, unit, member, "ss", (const char *const[]){unit, "replace", NULL}, &message))
        return -1;
    text = body_string(&message, &at);
    if (!text || strlen(text) >= sizeof job)
        return fail("%s: no reason", unit);
    strcpy(job, text);
    do {
        if (read_message(fd, &message))
            return -1;
    } while (!(text = result_of(&message, job)));
    return strcmp(text, "done") && strcmp(text, "skipped") ? fail("%s: %.80s", unit, text) : 0;
}

int systemd_call(int fd, const char *member, const char *unit)
{
    struct message answer;

    if (unit && check_unit(unit))
        return -1;
    return call_manager(fd, unit ? unit : member, member, unit ? "s" : "", (const char *const[]){unit, NULL}, &answer);
}

/* --- units --- */

/* The answer of ListUnitsFiltered is a list of structures, each of which begins at a multiple of
 * 8: name, description, and the states of loading, activity and detail, then the unit that it
 * follows, its path, and the number, kind and path of its job. */
static const char *next_unit(const struct message *answer, size_t *at, const char **detail, const char **path)
{
    const char *name;

    *at = (*at + 7) / 8 * 8;
    name = body_string(answer, at);
    for (int skipped = 0; skipped < 3; skipped++)
        body_string(answer, at);
    *detail = body_string(answer, at);
    body_string(answer, at);
    *path = body_string(answer, at);
    *at = (*at + 3) / 4 * 4 + sizeof(uint32_t);
    for (int skipped = 0; skipped < 2; skipped++)
        body_string(answer, at);
    return name && *detail && *path ? name : NULL;
}

static bool is_service(const char *name)
{
    static const char ending[] = ".service";
    const size_t length = strlen(name);

    return length > sizeof ending - 1 && !strcmp(name + length - (sizeof ending - 1), ending);
}

static const char *const states[] = {"failed", "auto-restart", "condition", "start-pre", "start", "start-post", NULL};

/* The word that this program prints for a detailed state of a unit. */
static const char *word_for(const char *detail)
{
    if (!strcmp(detail, "failed"))
        return "failed";
    return strcmp(detail, "auto-restart") ? "starting" : "restarting";
}

/* Microseconds since a unit ended; 0 if systemd does not tell. */
static int64_t ended_for_us(int fd, const char *path)
{
    const char *const property[] = {"org.freedesktop.systemd1.Unit", "InactiveEnterTimestampMonotonic", NULL};
    const struct call call = {path, "org.freedesktop.DBus.Properties", "Get", "ss", property};
    struct message answer;
    uint64_t moment;

    /* The answer is a variant: its signature, `t` for 64 bits, and the value at a multiple of 8. */
    if (make_call(fd, path, &call, &answer) || answer.header.body < 16 || memcmp(answer.body, "\1t", 3))
        return 0;
    memcpy(&moment, answer.body + 8, sizeof moment);
    return monotonic_us() - (int64_t)moment;
}

int systemd_troubled(int fd, FILE *out, int64_t within_us)
{
    static struct { char name[UNIT_MOST + 1], path[PATH_MOST + 1]; } failed[FAILED_MOST];
    struct message answer;
    const char *name, *detail, *path;
    size_t at = sizeof(uint32_t), count = 0; /* behind the size of the list */
    int recent = 0;

    if (call_manager(fd, "units", "ListUnitsFiltered", "as", states, &answer))
        return -1;
    while (at < answer.header.body && (name = next_unit(&answer, &at, &detail, &path))) {
        if (!is_service(name) || strlen(name) > UNIT_MOST || strlen(path) > PATH_MOST)
            continue;
        if (out && strcmp(detail, "failed"))
            fprintf(out, "%s %s\n", word_for(detail), name);
        if (strcmp(detail, "failed") || count == FAILED_MOST)
            continue;
        strcpy(failed[count].name, name);
        strcpy(failed[count++].path, path);
    }
    for (size_t i = 0; i < count; i++) { /* each call takes the place of the answer before it */
        const int64_t age = ended_for_us(fd, failed[i].path);

        recent += age <= within_us;
        if (out)
            fprintf(out, "failed %s %lld\n", failed[i].name, (long long)(age / 1000000));
    }
    return recent;
}
