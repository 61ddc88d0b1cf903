/* Calls to systemd over its own socket. `fd` is the result of systemd_connect. */
#ifndef SYSTEMD_H
#define SYSTEMD_H

#include "guest.h"

enum { UNIT_MOST = 200 }; /* characters of a unit's name */

int systemd_connect(void);

/* Makes a call of the manager that starts a job, such as StartUnit, and waits until the job has
 * ended. */
int systemd_job(int fd, const char *member, const char *unit);

/* Makes a call of the manager that starts no job. `unit` is its argument; NULL: it has none. */
int systemd_call(int fd, const char *member, const char *unit);

/* Prints `failed UNIT SECONDS` for each service that has failed for good so many seconds ago,
 * `restarting UNIT` for each one that has failed and is about to be started again, and `starting
 * UNIT` for each one that does not run yet. `out` may be NULL. Returns how many have failed for
 * good within the last `within_us`, or -1. */
int systemd_troubled(int fd, FILE *out, int64_t within_us);

#endif
