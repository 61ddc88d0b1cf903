/* Network cards (NICs). A NIC is found by its MAC address, and from then on known by the kernel's
 * index of its interface. */
#ifndef NICS_H
#define NICS_H

#include "document.h"

#include <net/if.h>

int nic_find(const uint8_t mac[6], char name[IFNAMSIZ]); /* the index, or 0 */
/* Does nothing if no NIC has the old address. */
int nic_change_mac(struct directive *mac);
/* Waits for the NIC and gives it its name; it is not brought up. */
int nic_take(struct directive *nic);
int nic_up(int index);
int loopback_up(void);

#endif
