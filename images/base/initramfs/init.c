/*
 * PID 1 of the initramfs: loads the modules, mounts the root disk and hands over to the image's own
 * /sbin/init.
 *
 * It replaces a distribution's initrd, which would cost 11 to 17 seconds without KVM. It is one static
 * program without shell and udev, and its modules were sorted and unpacked when the image was built.
 * If it fails, it powers off, so libvirt shows a VM that is off, and the last line of the console
 * says why.
 *
 * With `vcloud.probe` on the kernel command line it prints that it has reached user space and powers
 * off. This is the test boot for KVM.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ROOT_DISK "/dev/vda"
#define ROOT_WAIT_MS 10000
#define POLL_MS 2
#define PORTS "/sys/class/virtio-ports"

static void power_off(void)
{
	sync();
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

static void fail(const char *what)
{
	fprintf(stderr, "vcloud-init: %s: %s\n", what, strerror(errno));
	power_off();
}

static void mount_kernel_trees(void)
{
	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	mkdir("/root", 0755);
	if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL))
		fail("mount /proc");
	if (mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL))
		fail("mount /sys");
	if (mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755"))
		fail("mount /dev");
}

static int has_word(const char *path, const char *word)
{
	char text[4096];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text - 1);

	if (fd >= 0)
		close(fd);
	if (length <= 0)
		return 0;
	text[length] = 0;
	for (char *token = strtok(text, " \n"); token; token = strtok(NULL, " \n"))
		if (!strcmp(token, word))
			return 1;
	return 0;
}

/* Each line of /modules names one file; a module comes after those that it needs. */
static void load_modules(void)
{
	char line[256];
	FILE *list = fopen("/modules", "re");

	if (!list)
		fail("/modules");
	while (fgets(line, sizeof line, list)) {
		line[strcspn(line, "\n")] = 0;
		int fd = open(line, O_RDONLY | O_CLOEXEC);

		if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST))
			fail(line);
		close(fd);
		unlink(line); /* frees its memory: the initramfs lives there */
	}
	fclose(list);
	unlink("/modules");
}

/* Makes the names that udev would make much later, so that the guest agent can start at once. */
static void name_virtio_ports(void)
{
	char path[512], name[128], target[280];
	DIR *ports = opendir(PORTS);

	if (!ports)
		return;
	mkdir("/dev/virtio-ports", 0755);
	for (struct dirent *entry; (entry = readdir(ports));) {
		snprintf(path, sizeof path, PORTS "/%s/name", entry->d_name);
		FILE *file = entry->d_name[0] == '.' ? NULL : fopen(path, "re");

		if (!file)
			continue;
		if (fgets(name, sizeof name, file)) {
			name[strcspn(name, "\n")] = 0;
			snprintf(path, sizeof path, "/dev/virtio-ports/%s", name);
			snprintf(target, sizeof target, "../%s", entry->d_name);
			if (name[0] && !strchr(name, '/'))
				symlink(target, path);
		}
		fclose(file);
	}
	closedir(ports);
}

static void mount_root(void)
{
	for (int waited = 0; access(ROOT_DISK, F_OK); waited += POLL_MS) {
		if (waited >= ROOT_WAIT_MS)
			fail("no root disk " ROOT_DISK);
		usleep(POLL_MS * 1000);
	}
	if (mount(ROOT_DISK, "/root", "ext4", MS_NOATIME, NULL))
		fail("mount " ROOT_DISK);
	if (mount("tmpfs", "/root/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=20%"))
		fail("mount /run");
	if (mount("tmpfs", "/root/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777,size=50%"))
		fail("mount /tmp");
}

static void hand_over(void)
{
	static const char *const trees[] = {"/proc", "/sys", "/dev"};
	char target[32];

	for (size_t i = 0; i < sizeof trees / sizeof *trees; i++) {
		snprintf(target, sizeof target, "/root%s", trees[i]);
		if (mount(trees[i], target, NULL, MS_MOVE, NULL))
			fail(target);
	}
	unlink("/init");
	if (chdir("/root") || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"))
		fail("switch to the root disk");
	execl("/sbin/init", "/sbin/init", (char *)NULL);
	fail("/sbin/init");
}

int main(void)
{
	mount_kernel_trees();
	if (has_word("/proc/cmdline", "vcloud.probe")) {
		puts("vcloud-probe: user space reached");
		fflush(stdout);
		power_off();
	}
	load_modules();
	mount_root();
	name_virtio_ports();
	hand_over();
}
