/* Data disks. */
#ifndef DISK_H
#define DISK_H

/* Mounts the disk with this serial number. A blank disk gets a file system first. */
int mount_disk(const char *serial, const char *mountpoint);

#endif
