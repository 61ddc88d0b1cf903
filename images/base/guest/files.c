/* Writes files atomically (each is either the old or the new one), and starts other programs. */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

int check_path(const char *path)
{
    size_t length;

    if (*path != '/' || strlen(path) >= PATH_MAX / 2)
        return fail("'%.60s' is not an absolute path", path);
    for (const char *c = path; *c; c++)
        if (*c <= ' ' || *c > '~')
            return fail("the path holds a character that is not printable ASCII");
    for (; *path; path += length) {
        length = strcspn(++path, "/");
        if (!length || (length == 1 && *path == '.') || (length == 2 && !strncmp(path, "..", 2)))
            return fail("the path has a component that is empty, '.' or '..'");
    }
    return 0;
}

int find_owner(char *owner, uid_t *user, gid_t *group)
{
    char *colon = strchr(owner, ':');
    const struct passwd *password;
    const struct group *entry;

    if (!colon)
        return fail("'%.40s' is not USER:GROUP", owner);
    *colon = 0;
    password = getpwnam(owner); /* musl reads /etc/passwd itself */
    entry = getgrnam(colon + 1);
    *colon = ':';
    if (!password || !entry)
        return fail("no such %s: '%.40s'", password ? "group" : "user", owner);
    *user = password->pw_uid;
    *group = entry->gr_gid;
    return 0;
}

int make_parents(const char *path)
{
    char parent[PATH_MAX];

    for (const char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        snprintf(parent, sizeof parent, "%.*s", (int)(slash - path), path);
        if (mkdir(parent, 0755) && errno != EEXIST)
            return fail_errno(parent);
    }
    return 0;
}

int make_directory(const char *path, mode_t mode, uid_t user, gid_t group)
{
    int fd, broken;

    if (make_parents(path))
        return -1;
    if (mkdir(path, 0700) && errno != EEXIST)
        return fail_errno(path);
    if ((fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
        return fail_errno(path);
    broken = fchown(fd, user, group) || fchmod(fd, mode);
    if (broken)
        fail_errno(path);
    close(fd);
    return broken ? -1 : 0;
}

static int write_all(int fd, const char *data, size_t size)
{
    while (size) {
        ssize_t written = write(fd, data, size);

        if (written < 0)
            return -1;
        data += written;
        size -= (size_t)written;
    }
    return 0;
}

bool is_written(const char *path, const void *content, size_t size, mode_t mode, uid_t user, gid_t group)
{
    const char *data = content;
    const int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    char part[16 << 10];
    struct stat found;
    ssize_t got = -1;

    if (fd < 0)
        return false;
    if (!fstat(fd, &found) && found.st_mode == (S_IFREG | mode) && found.st_uid == user && found.st_gid == group
        && (size_t)found.st_size == size)
        while ((got = read(fd, part, sizeof part)) > 0 && (size_t)got <= size && !memcmp(part, data, (size_t)got)) {
            data += got;
            size -= (size_t)got;
        }
    close(fd);
    return !got && !size;
}

int write_file(const char *path, const void *data, size_t size, mode_t mode, uid_t user, gid_t group)
{
    char fresh[PATH_MAX];
    int fd;

    /* A file that is right is not written again: early in a boot, the root may be read-only. */
    if (is_written(path, data, size, mode, user, group))
        return 0;
    if (make_parents(path))
        return -1;
    snprintf(fresh, sizeof fresh, "%s.vcloud-new", path);
    unlink(fresh); /* left by a run that was cut off */
    if ((fd = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600)) < 0)
        return fail_errno(path);
    /* The mode is set after the owner, because a change of the owner clears the set-user-ID bit. */
    if (write_all(fd, data, size) || fchown(fd, user, group) || fchmod(fd, mode) || rename(fresh, path)) {
        fail_errno(path);
        unlink(fresh);
        close(fd);
        return -1;
    }
    close(fd);
    return 0;
}

int write_sysctl(const char *key, const char *value)
{
    char path[PATH_MAX];
    int fd, broken, error;

    snprintf(path, sizeof path, "/proc/sys/%s", key);
    if ((fd = open(path, O_WRONLY | O_CLOEXEC)) < 0)
        return fail_errno(key);
    broken = write_all(fd, value, strlen(value));
    error = errno;
    close(fd);
    errno = error;
    return broken ? fail_errno(key) : 0;
}

int read_sysctl(const char *key, char *value, size_t size)
{
    char path[PATH_MAX];
    ssize_t got;
    int fd;

    snprintf(path, sizeof path, "/proc/sys/%s", key);
    if ((fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
        return fail_errno(key);
    got = read(fd, value, size - 1);
    close(fd);
    if (got < 0)
        return fail_errno(key);
    value[got] = 0;
    value[strcspn(value, "\n")] = 0;
    return 0;
}

int run(char *const program[])
{
    posix_spawn_file_actions_t actions;
    int status = 0, broken;
    pid_t pid;

    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    broken = posix_spawnp(&pid, program[0], &actions, NULL, program, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (broken)
        return fail("%s: %s", program[0], strerror(broken));
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return fail_errno(program[0]);
    if (status)
        return fail("%s failed with status %d", program[0], WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    return 0;
}
