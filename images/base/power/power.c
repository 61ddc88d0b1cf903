/*
 * Waits for the ACPI power button and tells PID 1 to power off: `power SIGNAL`.
 *
 * logind or acpid would do the same, but both cost seconds of a boot without KVM. SIGNAL is the
 * signal that makes PID 1 power off: SIGRTMIN+4 for systemd, SIGUSR2 for busybox.
 */
#include <fcntl.h>
#include <linux/input.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define DEVICES 16

static int open_inputs(struct pollfd *inputs)
{
	char path[32];
	int count = 0;

	for (int i = 0; i < DEVICES; i++) {
		snprintf(path, sizeof path, "/dev/input/event%d", i);
		int fd = open(path, O_RDONLY | O_CLOEXEC);

		if (fd >= 0)
			inputs[count++] = (struct pollfd){.fd = fd, .events = POLLIN};
	}
	return count;
}

int main(int argc, char **argv)
{
	struct pollfd inputs[DEVICES];
	struct input_event event;
	int count = open_inputs(inputs), number = argc == 2 ? atoi(argv[1]) : 0;

	if (!number || !count) {
		fputs(number ? "power: no input device\n" : "usage: power SIGNAL\n", stderr);
		return 1;
	}
	while (poll(inputs, count, -1) > 0)
		for (int i = 0; i < count; i++)
			if (inputs[i].revents && read(inputs[i].fd, &event, sizeof event) == sizeof event && event.type == EV_KEY && event.code == KEY_POWER &&
			    event.value)
				kill(1, number);
	return 1;
}
