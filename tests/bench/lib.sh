# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154 # variables of the benchmarks
#
# What block, net and reach share: a guest of Debian's kernel that does one job, under Karma and under
# QEMU's microvm.

karma=${KARMA:-$root/build/karma}
append="mitigations=off nokaslr"
PATH=$PATH:/usr/sbin:/sbin

scratch=$(mktemp -d "${TMPDIR:-/tmp}/karma-bench.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

die() {
	echo "bench/${0##*/}: $*" >&2
	exit 125
}

need_tools() {	# TOOL...
	local tool
	for tool; do
		command -v "$tool" >/dev/null || die "$tool is not installed: run scripts/dependencies bench"
	done
}

# Sets release, module and modules, of the kernel.
find_guest() {	# KERNEL
	kernel=$1
	release=${kernel##*/vmlinuz-}
	need_tools busybox cpio modprobe qemu-system-x86_64
	module=${KARMA_GUEST:-$root/build/guest}/$release/module/virtio_karma.ko
	[ -f "$module" ] || die "$module: not there: run \`make guest KVER=$release\`"
	modules=${kernel%/boot/*}/lib/modules/$release
	[ -d "$modules" ] || modules=/lib/modules/$release
	[ -d "$modules" ] || die "$modules: not there: where are the modules of $kernel?"
}

# With its libraries.
add_program() {	# PROGRAM
	local library
	cp "$(command -v "$1")" "$tree/bin"
	{ ldd "$(command -v "$1")" 2>/dev/null || true; } | sed -n 's,^[^/]*\(/[^ ]*\).*,\1,p' | while read -r library; do
		mkdir -p "$tree${library%/*}"
		cp -L "$library" "$tree$library"
	done
}

add_modules() {	# NAME...
	local name file word rest
	while read -r word file rest; do
		if [ "$word" != insmod ]; then continue; fi
		name=${file##*/} name=${name%%.ko*}
		if [ -e "$tree/modules/$name.ko" ]; then continue; fi
		case $file in
		*.xz) xz -dc "$file" >"$tree/modules/$name.ko" ;;
		*.zst) zstd -dcq "$file" >"$tree/modules/$name.ko" ;;
		*) cp "$file" "$tree/modules/$name.ko" ;;
		esac
		echo "$name" >>"$tree/modules/order"
	done < <(for name; do
		modprobe --dirname "${modules%/lib/modules/*}/" --set-version "$release" --show-depends "$name"
	done)
}

# Makes $tree with busybox and what a guest needs for its devices, and these modules as well.
start_tree() {	# MODULE...
	tree=$scratch/root
	mkdir -p "$tree"/{bin,dev,proc,sys,tmp,lib64,modules}
	add_program busybox
	add_modules virtio_mmio virtio_console "$@"
	cp "$module" "$tree/modules/virtio_karma.ko"
	strip --strip-debug "$tree/modules/virtio_karma.ko"
	echo virtio_karma >>"$tree/modules/order"
}

# Makes $scratch/initramfs of $tree, with the job on stdin: what it prints goes to the console, alone.
finish_tree() {	# CONDITION, in the guest's shell: what it waits for is there
	{
		cat <<-END
		#!/bin/busybox sh
		export PATH=/bin
		busybox mount -t devtmpfs dev /dev
		busybox mount -t proc proc /proc
		busybox mount -t sysfs sys /sys
		busybox mount -t tmpfs tmp /tmp
		while read -r name; do busybox insmod /modules/\$name.ko 2>/dev/null; done </modules/order
		ready() { $1 && { [ -e /dev/hvc0 ] || [ -e /dev/ttyS0 ]; }; }
		n=0
		while ! ready && [ \$n -lt 100 ]; do busybox sleep 0.1; n=\$((n + 1)); done
		cd /tmp
		if [ -e /dev/hvc0 ]; then exec >/dev/hvc0 2>&1; else exec >/dev/ttyS0 2>&1; fi
		END
		cat
		echo 'if [ -d /sys/kernel/karma ]; then exec busybox poweroff -f; else exec busybox reboot -f; fi'
	} >"$tree/init"
	chmod +x "$tree/init"
	(cd "$tree" && find . | cpio --quiet -o -H newc) >"$scratch/initramfs"
}

# The job is karma_job in the guest's environment.  Counters go to $scratch/stats and $scratch/perf.
run_karma() {	# JOB OPTION...
	local job=$1 counters=()
	shift
	if [ -n "$perf" ]; then
		counters=(perf stat "-x," -o "$scratch/perf"
			-e raw_syscalls:sys_enter -e context-switches --)
	fi
	"${counters[@]}" "$karma" run --console "file:$scratch/console" --timeout "${limit:-$((seconds + 120))}" \
		--cpus "$cpus" --memory 512M --kernel "$kernel" --initrd "$scratch/initramfs" --stats \
		--cmdline "root=/dev/ram0 $append karma_job=$job" "$@" </dev/null 2>"$scratch/stats" || true
}

run_microvm() {	# JOB OPTION...
	local job=$1
	shift
	timeout "${limit:-$((seconds + 120))}" qemu-system-x86_64 \
		-M microvm,pit=off,pic=off,rtc=on,isa-serial=on,x-option-roms=off \
		-accel kvm -cpu host -m 512 -smp "$cpus" -nodefaults -no-user-config -display none \
		-no-reboot -serial "file:$scratch/console" -kernel "$kernel" -initrd "$scratch/initramfs" \
		-append "console=ttyS0 pci=off quiet reboot=t panic=-1 $append karma_job=$job" "$@" \
		</dev/null >"$scratch/err" 2>&1 || true
}

# Runs a guest by COMMAND, until it prints the PATTERN: now and then the soft host loses a guest of either
# monitor, and then once more.  What it printed is in $scratch/out.
run_guest() {	# PATTERN COMMAND...
	local pattern=$1 try
	shift
	for try in first second; do
		: >"$scratch/console"
		"$@"
		tr -d '\r' <"$scratch/console" >"$scratch/out"
		if grep -qE "$pattern" "$scratch/out"; then return; fi
	done
	cat "$scratch"/{out,stats,err} >&2 2>/dev/null || true
	die "$*: told nothing"
}

stat() { sed -n "s/^stats $1 //p" "$scratch/stats" | tail -n 1; }
from_perf() {
	[ -n "$perf" ] || { echo 0; return; }
	awk -F, -v "event=$1" 'index($3, event) { print $1 + 0; exit }' "$scratch/perf"
}

# Exits, hypercalls, interrupts, system calls, switches, and what they are divided by.
counters() {	# INTERRUPTS COUNT
	echo "$(stat kvm.exits)" "$(stat exit.hypercall)" "$1" \
		"$(from_perf sys_enter)" "$(from_perf context-switches)" "$2"
}

# ---- the results: a table as they come, or JSON in the end ----

results=()

print_heading() {	# WHAT UNIT
	[ -n "$json" ] || printf '%-28s %11s %11s %6s   %s\n' "$1" karma microvm ratio \
		"a $2: exits, hypercalls, interrupts, system calls, switches"
}

add_row() {	# JOB TITLE KARMA MICROVM BASE NOW [FIELDS], of counters without the job and with it
	local line
	line=$(awk -v "job=$1" -v "title=$2" -v "k=$3" -v "m=$4" -v "base=$5" -v "now=$6" -v "fields=$7" \
		-v "json=$json" -v "perf=$perf" 'BEGIN {
		split(now, n, " "); split(base, b, " "); r = n[6] - b[6]; if (r < 1) r = 1
		for (i = 1; i <= 5; i++) per[i] = sprintf("%.3f", (n[i] - b[i]) / r)
		if (!perf) per[4] = per[5] = json ? "null" : "-"
		if (json)
			printf "{\"job\":\"%s\",\"karma\":%s,\"microvm\":%s,%s\"exits\":%s,\"hypercalls\":%s,\"interrupts\":%s,\"system_calls\":%s,\"switches\":%s}\n", job, k, m, fields, per[1], per[2], per[3], per[4], per[5]
		else
			printf "%-28s %11.10g %11.10g %6.2f   %s %s %s %s %s\n", title, k, m, k / (m > 0 ? m : 1), per[1], per[2], per[3], per[4], per[5]
	}')
	results+=("$line")
	[ -n "$json" ] || printf '%s\n' "$line"
}

print_json() {	# BENCHMARK
	[ -z "$json" ] || (IFS=,; printf '{"%s":[%s]}\n' "$1" "${results[*]}")
}

perf=
if perf stat -x, -o "$scratch/perf" -e raw_syscalls:sys_enter true 2>/dev/null; then perf=1; fi
