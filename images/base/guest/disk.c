/* Data disks: found by serial number, given a file system when blank, mounted. Data that is there is never written over. */
#include "guest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DISK_WAIT_US = 10 * 1000 * 1000, LOOK_AGAIN_MS = 100, HEAD = 128 << 10 };

static bool has_serial(const char *name, const char *serial)
{
    char path[PATH_MAX], text[64];
    ssize_t size = -1;
    int fd;

    snprintf(path, sizeof path, "/sys/block/%s/serial", name);
    if ((fd = open(path, O_RDONLY | O_CLOEXEC)) >= 0) {
        size = read(fd, text, sizeof text - 1);
        close(fd);
    }
    if (size < 0)
        return false;
    text[size] = 0;
    text[strcspn(text, "\n")] = 0;
    return !strcmp(text, serial);
}

static int find_disk(const char *serial, char device[PATH_MAX])
{
    const int64_t deadline = monotonic_us() + DISK_WAIT_US;
    bool found = false;

    for (;;) {
        DIR *disks = opendir("/sys/block");
        const struct dirent *disk;

        while (disks && !found && (disk = readdir(disks)))
            if ((found = disk->d_name[0] != '.' && has_serial(disk->d_name, serial)))
                snprintf(device, PATH_MAX, "/dev/%s", disk->d_name);
        if (disks)
            closedir(disks);
        if (found && !access(device, F_OK)) /* the node comes a moment after the disk */
            return 0;
        if (monotonic_us() >= deadline)
            return found ? fail_errno(device) : fail("no disk with serial '%s'", serial);
        found = false;
        poll(NULL, 0, LOOK_AGAIN_MS);
    }
}

/* The file system on the disk, "" where its head is blank, NULL where it is something else. */
static const char *file_system(const char *device)
{
    static const struct {
        const char *name, *magic;
        size_t at, size;
    } known[] = {
        {"ext4", "\x53\xef", 0x438, 2},
        {"xfs", "XFSB", 0, 4},
        {"btrfs", "_BHRfS_M", 0x10040, 8},
    };
    static char head[HEAD];
    ssize_t size;
    int fd = open(device, O_RDONLY | O_CLOEXEC);

    if (fd < 0) {
        fail_errno(device);
        return NULL;
    }
    size = read(fd, head, sizeof head);
    close(fd);
    if (size != sizeof head) {
        fail("%s: cannot be read, or is too small", device);
        return NULL;
    }
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!memcmp(head + known[i].at, known[i].magic, known[i].size))
            return known[i].name;
    if (!head[0] && !memcmp(head, head + 1, sizeof head - 1))
        return "";
    fail("%s: holds data, but no file system that is known here", device);
    return NULL;
}

int mount_disk(const char *serial, const char *mountpoint)
{
    char device[PATH_MAX], make[] = "mkfs.ext4", quiet[] = "-q", force[] = "-F";
    char *const program[] = {make, quiet, force, device, NULL};
    struct stat disk, there;
    const char *kind;

    if (find_disk(serial, device) || make_parents(mountpoint))
        return -1;
    if (mkdir(mountpoint, 0755) && errno != EEXIST)
        return fail_errno(mountpoint);
    if (stat(device, &disk) || stat(mountpoint, &there))
        return fail_errno(mountpoint);
    if (disk.st_rdev == there.st_dev) /* mounted already */
        return 0;
    if (!(kind = file_system(device)) || (!*kind && run(program)))
        return -1;
    if (mount(device, mountpoint, *kind ? kind : "ext4", MS_NODEV | MS_NOSUID, NULL))
        return fail_errno(mountpoint);
    return 0;
}
