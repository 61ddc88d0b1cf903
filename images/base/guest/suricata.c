/* `guest suricata`: a client of Suricata's command socket (protocol 0.2): JSON objects, one after the other. */
#include "guest.h"

#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

enum { ANSWER_WAIT_S = 300, ANSWER_MOST = 4 << 20 };

static const char socket_path[] = "/run/suricata/command.socket";

/* Reads the text of a JSON object only as far as is needed to find its end and the value of its own "return". */
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
    char *question = NULL, *greeting = NULL, *answer = NULL;
    int fd = -1;
    bool ok;

    if (check_question(command, arguments ? arguments : "{}"))
        return print_error(0);
    if (asprintf(&question, "{\"command\":\"%s\"%s%s}\n", command, arguments ? ",\"arguments\":" : "", arguments ? arguments : "") < 0) {
        fail("out of memory");
        return print_error(0);
    }
    if ((fd = connect_suricata()) < 0 || !(greeting = ask(fd, "{\"version\":\"0.2\"}")) || !(answer = ask(fd, question)))
        return print_error(0);
    ok = scan_object(answer).ok;
    printf("%s%s", answer + strspn(answer, "\n"), answer[strlen(answer) - 1] == '\n' ? "" : "\n");
    free(question);
    free(greeting);
    free(answer);
    close(fd);
    return ok ? 0 : 1;
}
