/* Data disks are found by serial number, get a file system when they are blank, and are mounted.
 * Data on a disk is never overwritten.
 *
 * A blank disk first gets the files that the image has in the folder where the disk is mounted. The
 * image holds these files as a small file system (see vcloud.images.build), which is copied as a
 * whole and then grown. In an emulated guest, copying file by file would take seconds. */
#include "disk.h"
#include "guest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

/* EXT4_IOC_RESIZE_FS, which the kernel's headers do not export. */
#define GROW_EXT4 _IOW('f', 16, uint64_t)

/* A disk that begins with this text holds no data yet: the copy to it did not end. */
static const char copying[] = "vcloud is copying the image's content to this disk\n";

enum { DISK_WAIT_US = 10 * 1000 * 1000, LOOK_AGAIN_MS = 100, HEAD = 128 << 10, PAGE = 4096, CHUNK = 512 << 10 };

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

/* The kind of the file system on the disk, "" if its head is blank, NULL if it holds other data. */
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
    if (!memcmp(head, copying, sizeof copying) || (!head[0] && !memcmp(head, head + 1, sizeof head - 1)))
        return "";
    fail("%s: holds data, but no file system that is known here", device);
    return NULL;
}

/* Opens a file for direct I/O. In an emulated guest, the page cache costs more time than the copying
 * itself. */
static int open_direct(const char *path, int flags)
{
    int fd = open(path, flags | O_DIRECT | O_CLOEXEC);

    /* Some file systems, such as tmpfs, do not support direct I/O. */
    return fd < 0 && errno == EINVAL ? open(path, flags | O_CLOEXEC) : fd;
}

/* Copies `size` bytes at the offset `at` of a file to the same place of another. */
static int copy_bytes(int from, int to, off_t at, off_t size)
{
    static char chunk[CHUNK] __attribute__((aligned(PAGE)));

    while (size > 0) {
        const ssize_t got = pread(from, chunk, size < CHUNK ? (size_t)size : CHUNK, at);

        if (got <= 0 || pwrite(to, chunk, (size_t)got, at) != got)
            return -1;
        at += got;
        size -= got;
    }
    return 0;
}

/* Copies the data between two offsets of a file, without its holes, and waits until the data is on
 * the disk. */
static int copy_data(int from, int to, off_t at, off_t end)
{
    while ((at = lseek(from, at, SEEK_DATA)) >= 0 && at < end) {
        off_t hole = lseek(from, at, SEEK_HOLE);

        hole = hole < end ? hole : end;
        if (hole < 0 || copy_bytes(from, to, at, hole - at))
            return -1;
        at = hole;
    }
    return at >= 0 || errno == ENXIO ? fsync(to) : -1; /* ENXIO: only holes are left */
}

/* The first page holds the superblock and is copied last. Until then, `copying` is in its place and
 * shows that the copy is not complete. */
static int copy_content(int from, int to, const char *device)
{
    static char mark[PAGE] __attribute__((aligned(PAGE)));
    uint64_t range[2] = {0, 0}, size;
    struct stat content;

    memcpy(mark, copying, sizeof copying);
    if (fstat(from, &content) || ioctl(to, BLKGETSIZE64, &size))
        return fail_errno(device);
    range[1] = content.st_size;
    if (size < range[1])
        return fail("%s: too small; what the image puts there takes %llu MiB", device, (unsigned long long)(range[1] >> 20));
    if (ioctl(to, BLKZEROOUT, range) || pwrite(to, mark, sizeof mark, 0) != sizeof mark || fsync(to))
        return fail_errno(device);
    return copy_data(from, to, PAGE, content.st_size) || copy_data(from, to, 0, PAGE) ? fail_errno(device) : 0;
}

/* Makes a file system on a blank disk. */
static int make_file_system(const char *device, const char *mountpoint)
{
    char name[PATH_MAX], make[] = "mkfs.ext4", quiet[] = "-q", force[] = "-F", path[PATH_MAX];
    char *const program[] = {make, quiet, force, path, NULL};
    int from, to = -1, status;

    snprintf(path, sizeof path, "%s", device);
    snprintf(name, sizeof name, "/usr/lib/vcloud/disks%s.ext4", mountpoint);
    if ((from = open_direct(name, O_RDONLY)) < 0)
        return errno == ENOENT ? run(program) : fail_errno(name);
    status = (to = open_direct(device, O_RDWR)) < 0 ? fail_errno(device) : copy_content(from, to, device);
    close(from);
    if (to >= 0)
        close(to);
    return status;
}

/* Grows a file system to the size of its disk. A file system that cannot grow, because it is not ext4
 * or has errors, stays as it is. */
static void fill_disk(const char *device, const char *mountpoint)
{
    int disk = open(device, O_RDONLY | O_CLOEXEC), top = open(mountpoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct statfs there;
    uint64_t size, blocks;

    if (disk >= 0 && top >= 0 && !ioctl(disk, BLKGETSIZE64, &size) && !fstatfs(top, &there)) {
        blocks = size / there.f_bsize;
        ioctl(top, GROW_EXT4, &blocks);
    }
    close(disk);
    close(top);
}

int mount_disk(const char *serial, const char *mountpoint)
{
    char device[PATH_MAX];
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
    if (!(kind = file_system(device)) || (!*kind && make_file_system(device, mountpoint)))
        return -1;
    if (mount(device, mountpoint, *kind ? kind : "ext4", MS_NODEV | MS_NOSUID, NULL))
        return fail_errno(mountpoint);
    fill_disk(device, mountpoint);
    /* the folder keeps its owner and its mode when it becomes a disk */
    if (!*kind && (chown(mountpoint, there.st_uid, there.st_gid) || chmod(mountpoint, there.st_mode & 07777)))
        return fail_errno(mountpoint);
    return 0;
}
