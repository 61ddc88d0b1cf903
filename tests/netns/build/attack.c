/*
 * What a hostile command of a recipe may try by system calls. Each argument names one attempt; the
 * program prints "NAME done" or "NAME refused". It works on process 1 or on what the argument after
 * a colon names.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

static int trace(const char *pid)
{
	return ptrace(PTRACE_SEIZE, atoi(pid), 0, 0);
}

static int read_memory(const char *pid)
{
	char path[64], byte;

	snprintf(path, sizeof path, "/proc/%s/mem", pid);
	int fd = open(path, O_RDONLY);
	return fd < 0 ? -1 : (int)(pread(fd, &byte, 1, 0x400000) < 0 && errno == EACCES ? -1 : 0);
}

static int enter(const char *pid)
{
	char path[64];

	snprintf(path, sizeof path, "/proc/%s/ns/uts", pid);
	int fd = open(path, O_RDONLY);
	return fd < 0 ? -1 : setns(fd, CLONE_NEWUTS);
}

static int connect_abstract(const char *name)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strncpy(address.sun_path + 1, name, sizeof address.sun_path - 2);
	return connect(fd, (struct sockaddr *)&address,
		       offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name));
}

static int make_node(mode_t mode, dev_t device)
{
	int done = mknod("/tmp/vcloud-test-node", mode, device);

	unlink("/tmp/vcloud-test-node");
	return done;
}

/* Takes so many MiB, slowly enough to be seen, and keeps much of it for a minute. */
static int eat(int mebibytes)
{
	for (int i = 0; i < mebibytes; i++) {
		char *block = malloc(1 << 20);

		if (!block)
			return -1;
		memset(block, 1, 1 << 20);
		usleep(500);
	}
	if (mebibytes > 64)
		sleep(60);
	return 0;
}

/* Becomes another user, and stays for a minute. */
static int become(int user)
{
	return setuid(user) ? -1 : (int)sleep(60);
}

static int try(const char *name, const char *target)
{
	if (!strcmp(name, "trace"))
		return trace(target);
	if (!strcmp(name, "memory"))
		return read_memory(target);
	if (!strcmp(name, "eat"))
		return eat(atoi(target));
	if (!strcmp(name, "user"))
		return become(atoi(target));
	if (!strcmp(name, "enter"))
		return enter(target);
	if (!strcmp(name, "kill"))
		return kill(atoi(target), 0);
	if (!strcmp(name, "abstract"))
		return connect_abstract(target);
	if (!strcmp(name, "disk"))
		return make_node(S_IFBLK | 0600, makedev(254, 0));
	if (!strcmp(name, "null"))
		return make_node(S_IFCHR | 0600, makedev(1, 3));
	if (!strcmp(name, "mount"))
		return mount("none", "/tmp", "tmpfs", 0, NULL);
	if (!strcmp(name, "mountproc"))
		return mount("none", "/tmp", "proc", 0, NULL);
	if (!strcmp(name, "newmount"))
		return syscall(SYS_fsopen, "tmpfs", 0);
	if (!strcmp(name, "tree"))
		return syscall(SYS_open_tree, AT_FDCWD, "/", 1);
	if (!strcmp(name, "unmount"))
		return umount2("/proc", MNT_DETACH);
	if (!strcmp(name, "unshare"))
		return unshare(CLONE_NEWNS);
	if (!strcmp(name, "users"))
		return unshare(CLONE_NEWUSER);
	if (!strcmp(name, "hostname"))
		return sethostname("owned", 5);
	if (!strcmp(name, "sysctl")) {
		int fd = open("/proc/sys/kernel/core_pattern", O_WRONLY);
		return fd;
	}
	if (!strcmp(name, "messages"))
		return open("/proc/kmsg", O_RDONLY | O_NONBLOCK);
	if (!strcmp(name, "terminal"))
		return open("/dev/tty", O_RDWR);
	return -2;
}

int main(int count, char **arguments)
{
	for (int i = 1; i < count; i++) {
		char *target = strchr(arguments[i], ':');

		if (target)
			*target++ = 0;
		int done = try(arguments[i], target ? target : "1");
		printf("%s %s\n", arguments[i], done == -2 ? "unknown" : done < 0 ? "refused" : "done");
		fflush(stdout);
	}
	return 0;
}
