#!/bin/sh
# cloud-init runs this at the end of every boot. It runs the commands that run once, waits until the
# VM is ready, and says on the serial port how far it is. vcloud reads the serial port, so that the
# image needs no guest agent.

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

# Removes keys and files that the seed disk of the last boot had and this one has not. cloud-init
# itself only adds.
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

# Runs the command of each file that is new or that has changed. `follows` has a line KEY PATH for
# each of them.
follow_files() {
	[ -e "$folder/follows" ] || return 0
	while read -r key path; do
		now=$(sha256sum "$path")
		[ "$now" != "$(cat "$folder/follow/$key.done" 2>/dev/null)" ] || continue
		/bin/sh "$folder/follow/$key" </dev/null >"$folder/output" 2>&1 ||
			fail "the command of $path ended with $?: $(tail -c 500 "$folder/output" | tr -c '[:print:]' ' ')"
		cat "$folder/output"
		printf '%s\n' "$now" >"$folder/follow/$key.done"
	done <"$folder/follows"
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

# Whether one of the units that the file names has failed for good, which takes two looks in a row.
# Others may fail in any image.
failed=
has_failed() {
	before=$failed failed=
	[ -e "$folder/units" ] || return
	while read -r unit; do
		[ "$(systemctl show -P ActiveState "$unit" 2>/dev/null)" != failed ] || failed=$unit
	done <"$folder/units"
	[ -n "$failed" ] && [ "$failed" = "$before" ]
}

last_lines() {
	journalctl --no-pager -o cat -n 5 -u "$1" 2>/dev/null | tail -c 500 | tr -c '[:print:]' ' '
}

say started
[ ! -e "$folder/keys.had" ] || forget
cp "$folder/keys" "$folder/keys.had"
cp "$folder/files" "$folder/files.had"
[ -e "$folder/ran" ] || run_once
follow_files
read -r port timeout <"$folder/waits"
seconds=0
until is_ready; do
	[ "$seconds" -lt "$timeout" ] || fail "not ready after $timeout s"
	! has_failed || fail "not ready: $failed has failed; its last lines: $(last_lines "$failed")"
	sleep 1
	seconds=$((seconds + 1))
done
say ready
