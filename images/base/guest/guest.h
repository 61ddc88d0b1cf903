/* Functions that all parts of the guest program use: failures, input, values and files.
 *
 * The program needs nothing but the kernel. It is linked statically with musl, whose headers do not
 * clash with the kernel's:
 *     musl-gcc -static -Os -Wall -Wextra -Werror -idirafter /usr/include
 *         -idirafter /usr/include/x86_64-linux-gnu -o guest *.c
 *
 * A function that can fail describes its failure with fail() or fail_errno() and returns -1. The
 * command then prints the failure as `error LINE MESSAGE`. Messages quote names and never contents,
 * which may be secret. Everything on stdin is hostile until it is parsed, and all of it is parsed
 * before the first line takes effect.
 */
#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/types.h>

/* --- failures (text.c) --- */

extern char failure[256];
int fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
int fail_errno(const char *what); /* "WHAT: " and the text of errno */
/* Puts "WHERE: " in front of the failure that was described last. */
int fail_in(const char *where);
int print_error(int line);        /* prints `error LINE MESSAGE` and returns the exit status, 1 */

/* --- input (text.c) --- */

struct input {
    char *text, *next;
    int line; /* of the line returned last, counted from 1 */
};

int input_read(struct input *input, int fd);
char *input_line(struct input *input); /* the next line that is not empty, or NULL at the end */

/* Splits a line at single spaces. The last field keeps the rest of the line, spaces included. */
int split(char *line, char **fields, int most);

/* Makes room for element number `count` in an array that grows by doubling. Ends the program if no
 * memory is left. */
void *grow(void *array, size_t count, size_t element);

int64_t monotonic_us(void);

/* --- values (text.c, base64.c) --- */

struct address {
    int family; /* AF_INET, AF_INET6, or 0: none */
    uint8_t bytes[16];
};

struct prefix {
    struct address address;
    int length;
};

int parse_number(const char *text, uint64_t least, uint64_t most, uint64_t *number);
int parse_mode(const char *text, mode_t *mode);
int parse_mac(const char *text, uint8_t mac[6]);
int parse_address(const char *text, struct address *address);
int parse_prefix(const char *text, struct prefix *prefix);
size_t address_size(const struct address *address); /* 4 or 16 bytes */
bool same_address(const struct address *one, const struct address *other);
socklen_t socket_address(const struct address *address, uint16_t port, struct sockaddr_storage *out);
void address_of(const struct sockaddr_storage *from, struct address *address, uint16_t *port);
const char *address_text(const struct address *address); /* valid until the next call */

/* Decodes in place: `bytes` points into `text`. */
int base64_decode(char *text, uint8_t **bytes, size_t *size);
void base64_print(FILE *out, const uint8_t *bytes, size_t size);
void json_string(FILE *out, const char *text);

/* --- files and programs (files.c) --- */

int check_path(const char *path); /* absolute, printable, no empty, `.` or `..` component */
int find_owner(char *owner, uid_t *user, gid_t *group); /* USER:GROUP, by name */
int make_parents(const char *path);
int make_directory(const char *path, mode_t mode, uid_t user, gid_t group);
/* Atomic. */
int write_file(const char *path, const void *data, size_t size, mode_t mode, uid_t user, gid_t group);
/* Does the file already exist with this content, mode and owner? */
bool is_written(const char *path, const void *data, size_t size, mode_t mode, uid_t user, gid_t group);
/* Keeps errno after a failure. */
int write_sysctl(const char *key, const char *value);
/* The value has no newline at its end. */
int read_sysctl(const char *key, char *value, size_t size);
/* Runs a program without its stdout. An exit status other than 0 is a failure. */
int run(char *const program[]);

/* --- files that changed while services ran (services.c) --- */

int note_change(const char *path); /* before it changes */
int print_changes(void);           /* one line `changed PATH` for each that no unit was told of */

/* --- commands: each returns the exit status --- */

int identity(const char *run);
int boot(void);
int probe(void);
int listen_start(const char *seconds);
int listen_stop(const char *pid);
int ready(const char *port, const char *seconds, const char *since);
int start_services(void);
int change_units(void);
int services(const char *port);
int suricata(const char *command, const char *arguments);
int suricata_report(void);
int report(bool hooks);

#endif
