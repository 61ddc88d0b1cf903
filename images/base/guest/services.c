/* `guest start-services`, `guest change-units` and `guest services`: start, reload and list the
 * services of this guest.
 *
 * If a file changes while services run, the services that read it know only the old file. So its
 * path is kept in a list until `guest change-units` has reloaded these services. If a run of vcloud
 * is killed in between, the next run finishes this.
 */
#include "systemd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char target[] = "multi-user.target";
static const char target_path[] = "/usr/lib/systemd/system/multi-user.target";
static const char default_path[] = "/etc/systemd/system/default.target";
static const char units_folder[] = "/etc/systemd/system/";
static const char changed_path[] = "/etc/vcloud/changed";

/* --- what has changed --- */

/* Have services ever started here? If not, they will read the new files when they start. */
static bool have_started(void)
{
    char place[256];
    const ssize_t length = readlink(default_path, place, sizeof place);

    return length == sizeof target_path - 1 && !strncmp(place, target_path, (size_t)length);
}

int note_change(const char *path)
{
    FILE *list;
    int broken;

    if (!have_started())
        return 0;
    if (make_parents(changed_path) || !(list = fopen(changed_path, "ae")))
        return fail_errno(changed_path);
    broken = fprintf(list, "%s\n", path) < 0;
    return fclose(list) || broken ? fail_errno(changed_path) : 0;
}

int print_changes(void)
{
    struct input list = {0};
    const int fd = open(changed_path, O_RDONLY | O_CLOEXEC);
    const char *path;

    if (fd < 0)
        return errno == ENOENT ? 0 : fail_errno(changed_path);
    if (input_read(&list, fd))
        return close(fd), -1;
    close(fd);
    while ((path = input_line(&list)))
        printf("changed %s\n", path);
    return 0;
}

static bool units_have_changed(void)
{
    struct input list = {0};
    const int fd = open(changed_path, O_RDONLY | O_CLOEXEC);
    const char *path;
    bool changed = false;

    if (fd < 0)
        return false;
    if (!input_read(&list, fd))
        while ((path = input_line(&list)))
            changed |= !strncmp(path, units_folder, sizeof units_folder - 1);
    close(fd);
    return changed;
}

/* --- the units that read it --- */

/* systemd refuses to start a unit that has failed too often, unless its failures are reset. */
static int change_unit(int fd, char *line)
{
    char *word[2];
    const char *member;

    if (split(line, word, 2) != 2)
        return fail("not `reload UNIT` or `restart UNIT`");
    if (!strcmp(word[0], "reload"))
        member = "ReloadOrRestartUnit";
    else if (!strcmp(word[0], "restart"))
        member = "RestartUnit";
    else
        return fail("'%.40s' is not reload or restart", word[0]);
    systemd_call(fd, "ResetFailedUnit", word[1]);
    return systemd_job(fd, member, word[1]);
}

/* systemd keeps the connection open when it reads its units again. But a late answer would then be
 * taken for the answer to the next call. */
static int read_units_anew(void)
{
    const int fd = systemd_connect();
    int broken;

    if (fd < 0)
        return -1;
    broken = systemd_call(fd, "Reload", NULL);
    close(fd);
    return broken;
}

int change_units(void)
{
    struct input input = {0};
    char *line;
    int fd;

    if (input_read(&input, STDIN_FILENO) || (units_have_changed() && read_units_anew()) || (fd = systemd_connect()) < 0)
        return print_error(0);
    while ((line = input_line(&input)))
        if (change_unit(fd, line))
            return print_error(input.line);
    close(fd);
    if (unlink(changed_path) && errno != ENOENT) {
        fail_errno(changed_path);
        return print_error(0);
    }
    puts("ok");
    return 0;
}

/* --- all of them --- */

/* Makes the VM boot to its services from now on. systemd does not load a unit while one of its names
 * changes, so this comes last. */
static int change_default(void)
{
    static const char fresh[] = "/etc/systemd/system/default.target.vcloud-new";

    unlink(fresh); /* of a run that was cut off */
    return symlink(target_path, fresh) || rename(fresh, default_path) ? fail_errno(default_path) : 0;
}

int start_services(void)
{
    const int fd = systemd_connect();

    if (fd < 0 || systemd_job(fd, "StartUnit", target) || change_default())
        return print_error(0);
    close(fd);
    return 0;
}

int services(const char *port)
{
    const int fd = systemd_connect();

    if (fd < 0 || systemd_troubled(fd, stdout, 0) < 0)
        return print_error(0);
    close(fd);
    if (port && ready(port, "0", "0"))
        printf("silent %s\n", port);
    return 0;
}
