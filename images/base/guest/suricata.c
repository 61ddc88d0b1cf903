/* `guest suricata` and `guest suricata-report`: a client of Suricata's command socket (protocol
 * 0.2): JSON objects, one after the other. */
#include "guest.h"

#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { ANSWER_WAIT_S = 300, ANSWER_MOST = 4 << 20, WIRES_MOST = 512, FOLDERS_OPEN = 8 };

static const char socket_path[] = "/run/suricata/command.socket", files_path[] = "/etc/vcloud/ips", greeting[] = "{\"version\":\"0.2\"}";

/* Reads the text of a JSON object only as far as is needed to find its end and the value of its own
 * "return". */
struct scan {
    int depth;
    bool in_string, escaped, ended, ok;
};

static bool says_ok(const char *text)
{
    static const char *const words[] = {"\"return\"", ":", "\"OK\""};

    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        text += strspn(text, " \t\r\n");
        if (strncmp(text, words[i], strlen(words[i])))
            return false;
        text += strlen(words[i]);
    }
    return true;
}

static struct scan scan_object(const char *text)
{
    struct scan scan = {0};

    for (; *text && !scan.ended; text++) {
        if (scan.in_string) {
            scan.in_string = scan.escaped || *text != '"';
            scan.escaped = !scan.escaped && *text == '\\';
        } else if (*text == '"') {
            scan.in_string = true;
            scan.ok |= scan.depth == 1 && says_ok(text);
        } else if (*text == '{' || *text == '[') {
            scan.depth++;
        } else if (*text == '}' || *text == ']') {
            scan.ended = !--scan.depth;
        }
    }
    return scan;
}

static int connect_suricata(void)
{
    struct sockaddr_un there = {.sun_family = AF_UNIX};
    const struct timeval patience = {.tv_sec = ANSWER_WAIT_S};
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    memcpy(there.sun_path, socket_path, sizeof socket_path);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience)
        || connect(fd, (struct sockaddr *)&there, sizeof there))
        return fail_errno(socket_path);
    return fd;
}

/* Sends one object and returns the answer to it, which the caller frees, or NULL. */
static char *ask(int fd, const char *question)
{
    const size_t length = strlen(question);
    size_t size = 0, room = 64 << 10;
    char *answer = grow(NULL, 0, room);
    ssize_t got = 0;

    *answer = 0;
    if (send(fd, question, length, MSG_NOSIGNAL) != (ssize_t)length)
        got = -1;
    while (got >= 0 && !scan_object(answer).ended) {
        if (room - size < 2 && room < ANSWER_MOST && !(answer = realloc(answer, room *= 2)))
            break;
        if ((got = recv(fd, answer + size, room - size - 1, 0)) <= 0)
            break;
        answer[size += (size_t)got] = 0;
    }
    if (answer && got > 0)
        return answer;
    if (got < 0)
        fail_errno(socket_path);
    else
        fail("%s: the answer ends early", socket_path);
    free(answer);
    return NULL;
}

static int check_question(const char *command, const char *arguments)
{
    const struct scan scan = scan_object(arguments);

    if (!*command || strspn(command, "abcdefghijklmnopqrstuvwxyz-") != strlen(command))
        return fail("'%.40s' is no command", command);
    if (*arguments != '{' || !scan.ended)
        return fail("the arguments are no JSON object");
    return 0;
}

int suricata(const char *command, const char *arguments)
{
    char *question = NULL, *welcome = NULL, *answer = NULL;
    int fd = -1;
    bool ok;

    if (check_question(command, arguments ? arguments : "{}"))
        return print_error(0);
    if (asprintf(&question, "{\"command\":\"%s\"%s%s}\n", command, arguments ? ",\"arguments\":" : "", arguments ? arguments : "") < 0) {
        fail("out of memory");
        return print_error(0);
    }
    if ((fd = connect_suricata()) < 0 || !(welcome = ask(fd, greeting)) || !(answer = ask(fd, question)))
        return print_error(0);
    ok = scan_object(answer).ok;
    printf("%s%s", answer + strspn(answer, "\n"), answer[strlen(answer) - 1] == '\n' ? "" : "\n");
    free(question);
    free(welcome);
    free(answer);
    close(fd);
    return ok ? 0 : 1;
}

/* --- suricata-report --- */

/* Asks and prints the answer, without the newlines around it. Returns 1 for OK, 0 for another
 * answer, -1 if there is none. */
static int print_answer(int fd, const char *question)
{
    char *answer = ask(fd, question);
    int ok;

    if (!answer)
        return -1;
    ok = scan_object(answer).ok;
    answer[strcspn(answer, "\r\n")] = 0;
    fputs(answer, stdout);
    free(answer);
    return ok;
}

static int print_member(int fd, const char *key, const char *command)
{
    char question[80];

    snprintf(question, sizeof question, "{\"command\":\"%s\"}\n", command);
    printf("\"%s\": ", key);
    if (print_answer(fd, question) < 0)
        return -1;
    fputs(", ", stdout);
    return 0;
}

/* Prints for each interface the answers to three questions about Suricata's present configuration.
 * The answer after the last interface, that there is none, is printed, too. */
static int print_wires(int fd)
{
    static const char *const keys[] = {"interface", "copy-iface", "copy-mode"};
    char question[120];
    int ok = 1;

    fputs("\"wires\": [", stdout);
    for (int wire = 0; ok == 1 && wire < WIRES_MOST; wire++) {
        fputs(wire ? ", [" : "[", stdout);
        for (size_t i = 0; ok == 1 && i < sizeof keys / sizeof *keys; i++) {
            snprintf(question, sizeof question, "{\"command\":\"conf-get\",\"arguments\":{\"variable\":\"af-packet.%d.%s\"}}\n", wire,
                     keys[i]);
            if (i)
                fputs(", ", stdout);
            if ((ok = print_answer(fd, question)) < 0)
                return -1;
        }
        putchar(']');
    }
    fputs("], ", stdout);
    return 0;
}

static struct timespec newest;

static int compare_change(const char *path, const struct stat *found, int type, struct FTW *where)
{
    (void)path, (void)type, (void)where;
    if (found->st_ctim.tv_sec > newest.tv_sec || (found->st_ctim.tv_sec == newest.tv_sec && found->st_ctim.tv_nsec > newest.tv_nsec))
        newest = found->st_ctim;
    return 0;
}

/* Prints the time at which any of Suricata's files was last changed, as Suricata writes times. It is
 * the ctime, because programs can set the mtime of a file. */
static void print_change(void)
{
    char time[40], zone[8];
    struct tm parts;

    nftw(files_path, compare_change, FOLDERS_OPEN, FTW_PHYS);
    localtime_r(&newest.tv_sec, &parts);
    strftime(time, sizeof time, "%Y-%m-%dT%H:%M:%S", &parts);
    strftime(zone, sizeof zone, "%z", &parts);
    printf("\"changed\": \"%s.%06ld%s\"}\n", time, newest.tv_nsec / 1000, zone);
}

int suricata_report(void)
{
    const int fd = connect_suricata();
    char *welcome = fd < 0 ? NULL : ask(fd, greeting);

    if (!welcome)
        return print_error(0);
    free(welcome);
    putchar('{');
    if (print_member(fd, "rules", "ruleset-stats") || print_member(fd, "reloaded", "ruleset-reload-time")
        || print_member(fd, "counters", "dump-counters") || print_wires(fd))
        return print_error(0);
    print_change();
    close(fd);
    return 0;
}
