# shellcheck shell=bash
# What tests of engines share: karma-oci installed in the soft host, an image, and what is told of each step.
#
# A test sets `me` and sources this.  It ends with `finish`.

here=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
root=${here%/tests/oci}
work=/run/karma-${me:?}
passed=0 failed=0

say() { echo "$me: $*"; }
die() { say "$*" >&2; exit 1; }

[ "${KARMA_SOFT_HOST-}" = 1 ] || die "changes /etc and /usr: run make check-$me, which is in the soft host"

# Engines that were started end with the test.
# shellcheck disable=SC2046 # words
trap 'kill $(jobs -p) 2>/dev/null' EXIT

# As the packages have it, with Karma's own kernel; where that is only in this tree.
install_runtime() {
	local guest=/usr/local/lib/karma/guest
	[ -f "$root/build/guest/vmlinux" ] || die "no build/guest/vmlinux: run make guest-kernel"
	mkdir -p "$work" /etc/karma /var/tmp /usr/local/lib/karma
	ln -sfn "$root/build/guest" $guest
	ln -sf "$root/build/karma" /usr/bin/karma
	ln -sf "$root/build/karma" /usr/bin/karma-oci
	printf 'memory = 128M\n' >/etc/karma/oci.conf
	# What the engines' networks and namespaces are made of; a module may be built in.
	modprobe -q -a bridge veth ip_tables iptable_nat iptable_filter xt_conntrack || true
}

# A root file system with busybox in it.
make_root() {	# DIRECTORY
	mkdir -p "$1"/{bin,dev,etc,proc,root,run,sys,tmp}
	chmod 1777 "$1/tmp"
	cp "$(command -v busybox)" "$1/bin/busybox"
	"$1/bin/busybox" --list | grep -vx busybox | while read -r name; do ln -s busybox "$1/bin/$name"; done
	echo 'root:x:0:0:root:/root:/bin/sh' >"$1/etc/passwd"
	echo 'root:x:0:' >"$1/etc/group"
}

# An archive with the image NAME in it, as `docker save` writes it; COMMAND is JSON.
make_image() {	# NAME FILE [COMMAND]
	local command=${3-'["sh"]'} layer=$work/image/layer.tar id
	make_root "$work/image/root"
	tar -C "$work/image/root" -cf "$layer" .
	id=$(sha256sum "$layer")
	echo "{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{\"Cmd\":$command,\"Env\":[\"PATH=/bin\"]}," \
		"\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:${id%% *}\"]}}" >"$work/image/config.json"
	echo "[{\"Config\":\"config.json\",\"RepoTags\":[\"$1\"],\"Layers\":[\"layer.tar\"]}]" \
		>"$work/image/manifest.json"
	tar -C "$work/image" -cf "$2" manifest.json config.json layer.tar
	rm -rf "$work/image"
}

# Waits for something to hold, for a minute at most.
await() {	# COMMAND...
	local i
	for ((i = 0; i < 300; i++)); do
		! "$@" >/dev/null 2>&1 || return 0
		sleep 0.2
	done
	say "never: $*" >&2
	return 1
}

# One step: its status, and a line of its output or error output that matches an extended regular expression, or '' for none.
expect() {	# NAME STATUS PATTERN COMMAND...
	local name=$1 wanted=$2 pattern=$3 out status=0
	shift 3
	out=$("$@" 2>&1 </dev/null) || status=$?
	if [ "$status" = "$wanted" ] && { [ -z "$pattern" ] || grep -Eqx -- "$pattern" <<<"${out//$'\r'/}"; }; then
		passed=$((passed + 1))
		say "ok: $name"
		return
	fi
	failed=$((failed + 1))
	say "FAILED: $name: status $status for $wanted, and for /$pattern/:"
	printf '    %s\n' "${out//$'\n'/$'\n    '}"
}

finish() {
	say "$passed passed, $failed failed"
	[ $failed -eq 0 ] && [ $passed -gt 0 ]
}
