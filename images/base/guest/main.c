/* vcloud's program in the guest. It does each task in one process, because starting
 * a process is very slow in an emulated guest. */
#include "guest.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/random.h>

static const char usage[] =
    "usage: guest identity [RUN]              apply the document on stdin and keep it for `guest boot`\n"
    "       guest boot                        apply the kept document again\n"
    "       guest probe                       send the probes on stdin, one line of JSON for each\n"
    "       guest listen SECONDS              serve the addresses on stdin in the background\n"
    "       guest listen-stop PID             end such a service\n"
    "       guest ready tcp PORT              does anything listen on this port?\n"
    "       guest wait-tcp PORT SECONDS [AGO] the same, but wait up to SECONDS, or until a service fails (or failed within AGO seconds)\n"
    "       guest change-units                reload or restart the units on stdin, whose files have changed\n"
    "       guest services [PORT]             which services do not run, and does anything listen on this port?\n"
    "       guest start-services              start what multi-user.target wants, now and at each boot\n"
    "       guest suricata COMMAND [JSON]     send a command to Suricata\n"
    "       guest suricata-report             Suricata's rules, wires and counters as it runs now\n"
    "       guest report [hooks]              everything in the kernel's network, one text for each item\n"
    "       guest random N                    N random bytes in hexadecimal\n";

static int print_random(const char *count)
{
    uint8_t bytes[256]; /* getrandom never gives less than it was asked for, up to this size */
    uint64_t size;

    if (parse_number(count, 1, sizeof bytes, &size) || getrandom(bytes, size, 0) != (ssize_t)size)
        return print_error(0);
    for (size_t i = 0; i < size; i++)
        printf("%02x", bytes[i]);
    putchar('\n');
    return 0;
}

static int dispatch(int count, char **word)
{
    const char *command = count > 1 ? word[1] : "";

    if ((count == 2 || count == 3) && !strcmp(command, "identity"))
        return identity(count == 3 ? word[2] : "0");
    if (count == 2 && !strcmp(command, "boot"))
        return boot();
    if (count == 2 && !strcmp(command, "probe"))
        return probe();
    if (count == 3 && !strcmp(command, "listen"))
        return listen_start(word[2]);
    if (count == 3 && !strcmp(command, "listen-stop"))
        return listen_stop(word[2]);
    if (count == 4 && !strcmp(command, "ready") && !strcmp(word[2], "tcp"))
        return ready(word[3], "0", "0");
    if ((count == 4 || count == 5) && !strcmp(command, "wait-tcp"))
        return ready(word[2], word[3], count == 5 ? word[4] : "0");
    if (count == 2 && !strcmp(command, "start-services"))
        return start_services();
    if (count == 2 && !strcmp(command, "change-units"))
        return change_units();
    if ((count == 2 || count == 3) && !strcmp(command, "services"))
        return services(word[2]);
    if ((count == 3 || count == 4) && !strcmp(command, "suricata"))
        return suricata(word[2], word[3]);
    if (count == 2 && !strcmp(command, "suricata-report"))
        return suricata_report();
    if ((count == 2 || (count == 3 && !strcmp(word[2], "hooks"))) && !strcmp(command, "report"))
        return report(count == 3);
    if (count == 3 && !strcmp(command, "random"))
        return print_random(word[2]);
    fputs(usage, stderr);
    return 2;
}

int main(int count, char **word)
{
    int status;

    signal(SIGPIPE, SIG_IGN);
    /* With the umask of the guest agent, only root could enter folders that this program makes. */
    umask(022);
    /* The PATH of the guest agent does not have all of these folders. */
    setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
    status = dispatch(count, word);
    return fflush(stdout) || ferror(stdout) ? 1 : status;
}
