#!/bin/sh
# cloud-init runs this at the end of every boot. It runs the commands that run once, waits until the VM is ready, and says on the serial
# port how far it is. vcloud reads the serial port, so that the image needs no guest agent.

folder=/var/lib/vcloud

# The login prompt may take over the port at this moment. Then one write fails, so try again.
say() {
	for _ in 1 2 3; do
		printf '\nvcloud: %s\n' "$*" >/dev/ttyS0 && return
		sleep 1
	done
}

fail() {
	say "failed: $*"
	exit 1
}

run_once() {
	number=0
	while [ -e "$folder/run/$number" ]; do
		/bin/sh "$folder/run/$number" >"$folder/output" 2>&1 ||
			fail "run[$number] ended with $?: $(tail -c 500 "$folder/output" | tr -c '[:print:]' ' ')"
		cat "$folder/output"
		number=$((number + 1))
	done
	: >"$folder/ran"
}

# Removes keys and files that the seed disk of the last boot had and this one has not. cloud-init itself only adds.
forget() {
	for home in /root /home/*; do
		stored=$home/.ssh/authorized_keys
		[ -e "$stored" ] || continue
		grep -vxFf "$folder/keys" "$folder/keys.had" >"$folder/keys.gone"
		grep -vxFf "$folder/keys.gone" "$stored" >"$folder/keys.left"
		cmp -s "$folder/keys.left" "$stored" || cat "$folder/keys.left" >"$stored"
	done
	grep -vxFf "$folder/files" "$folder/files.had" | while read -r path; do rm -f "$path"; done
}

# Whether anything listens on a TCP port, given as the kernel prints it: four hexadecimal digits.
listens() {
	grep -Eqs ": [0-9A-F]+:$1 [0-9A-F]+:0000 0A " /proc/net/tcp /proc/net/tcp6
}

is_ready() {
	if [ "$port" != 0000 ]; then
		listens "$port" || return
	fi
	/bin/sh "$folder/ready" >/dev/null 2>&1
}

say started
[ ! -e "$folder/keys.had" ] || forget
cp "$folder/keys" "$folder/keys.had"
cp "$folder/files" "$folder/files.had"
[ -e "$folder/ran" ] || run_once
read -r port timeout <"$folder/waits"
seconds=0
until is_ready; do
	[ "$seconds" -lt "$timeout" ] || fail "not ready after $timeout s"
	sleep 1
	seconds=$((seconds + 1))
done
say ready
