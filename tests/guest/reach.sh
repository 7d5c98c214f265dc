# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154,SC2016
# (the library's variables; the guest's shell expands what we quote)
#
# A Debian 13 from a disk, with systemd, as its users reach it: by ssh over vsock, and by the agent that its package
# would start.

# A guest, web, of that disk, whose systemd has its sockets.  No time-out of systemd's is a busy host's.
start_trixie() {
	local image=$KARMA_ROOT/build/test/trixie.img limit=${KARMA_TEST_LIMIT:-400} end slow
	[ -r "$image" ] || die "no $image: see tests/guest/make-debian-image"
	LIMIT=$limit
	slow="systemd.default_timeout_start_sec=$limit systemd.default_device_timeout_sec=$limit"
	end=$((SECONDS + limit - 100))
	start_reachable --memory 512 --disk "$image,overlay=overlay" \
		--cmdline "systemd.condition_needs_update=0 $slow"
	until in_guest systemctl -q is-active basic.target 2>err.exec; do
		[ $SECONDS -lt $end ] || die "systemd has no basic.target: $(cat err.exec err out)"
		nap 2
	done
}

in_unit() { in_guest cat /proc/self/cgroup 2>/dev/null | grep -q karma-agent.service; }

# In place of the initramfs's agent, which is there first, that of the unit.
start_agent_by_unit() {
	local end=$((SECONDS + 100))
	in_guest mkdir -p /usr/local/lib/karma
	"$KARMA" cp "$KARMA_ROOT/build/karma-agent" web:/usr/local/lib/karma/ || die "cp: $?"
	"$KARMA" cp "$KARMA_ROOT/systemd/karma-agent.service" web:/etc/systemd/system/ || die "cp: $?"
	exits 0 in_guest systemctl -q enable --now karma-agent
	! in_unit || die "systemd has started another agent beside that of the initramfs"
	# The one whose parent is init; those below it serve us.
	exits 0 in_guest systemd-run --quiet sh -c '
		kill $(grep -l "^PPid:.1$" $(grep -l "^Name:.karma-agent$" /proc/[0-9]*/status) | cut -d / -f 3)
		exec systemctl restart karma-agent'
	until in_unit; do
		[ $SECONDS -lt $end ] || die "no agent by its unit: $(in_guest systemctl status karma-agent)"
		nap 2
	done
}

test_trixie_is_reached_by_ssh_and_its_agent() {
	start_trixie
	ssh-keygen -q -t ed25519 -N '' -f key
	exits 0 in_guest mkdir -p -m 700 .ssh
	"$KARMA" cp key.pub web:.ssh/authorized_keys || die "cp: $?"
	ssh=(ssh -F none -i key -o StrictHostKeyChecking=no -o UserKnownHostsFile=known -o BatchMode=yes
		-o "ProxyCommand=$KARMA connect %h 22" root@web)
	exits 7 "${ssh[@]}" 'echo output; echo error >&2; exit 7'
	[ "$(cat exec.out)" = output ] || die "by ssh: $(cat exec.out exec.err)"
	head -c 3000000 /dev/urandom >sent
	"${ssh[@]}" cat <sent >came || die "ssh: $?"
	cmp sent came || die "what came back by ssh differs"

	start_agent_by_unit
	exits 0 in_guest useradd -m -s /bin/bash -G audio app
	[ "$("$KARMA" exec web -u app -- sh -c 'echo $(id -un) $(id -Gn) $HOME $PWD')" = "app app audio /home/app /home/app" ] ||
		die "a user"
	exits 5 "$KARMA" exec -t web -u app -- sh -c 'tty; test -w $(tty) && exit 5'
	expect_in exec.out '^/dev/pts/'
	mkdir tree
	echo text >tree/file
	ln -s file tree/link
	"$KARMA" cp tree web:/home/app || die "cp: $?"
	"$KARMA" cp web:/home/app/tree back || die "cp: $?"
	diff -r --no-dereference tree back || die "what came back differs"
	# What was started goes on when the agent is another, such as who asks for that.
	exits 0 in_guest sh -c 'sleep 1000 >/dev/null 2>&1 & echo $! >/run/left'
	exits 0 in_guest systemctl restart karma-agent
	exits 0 in_guest sh -c 'kill -0 $(cat /run/left)'
	"$KARMA" stop --force web
	end_guest
	expect_status 143
}
