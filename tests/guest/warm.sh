# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034,SC2154
# (the library's variables)
#
# Warm starts: guests that go on from where another one has booted to.

# One that comes to its checkpoint and tells its generation: 1 in one that goes on from an image.
checkpoint() {	# OPTION...
	mkdir -p -m 700 cache
	[ -f nothing ] || echo nothing >nothing
	KARMA_CACHE_DIR=$PWD/cache tiny checkpoint --initrd nothing --memory 32M --cmdline root= --console stdio "$@" -- true </dev/null
	expect_status 3
	[ ! -s err ] || [[ $* == *--stats* ]] || die "messages: $(cat err)"
}

images() { find cache/warm -mindepth 1 -maxdepth 1 | wc -l; }

test_warm_start_goes_on_from_the_first_one() {
	checkpoint --warm off
	[ ! -d cache/warm ] || die "an image of --warm off"
	checkpoint --stats
	expect_out 'generation 0'
	[ "$(counter start.warm)" = 0 ] || die "warm: $(cat err)"
	[ "$(images)" = 1 ] || die "images: $(ls cache/warm)"
	checkpoint --stats
	expect_out 'generation 1'
	[ "$(counter start.warm)" = 1 ] || die "cold: $(cat err)"
	# With what it has not looked at; and by two CPUs, which it has.
	truncate -s 1M disk
	checkpoint --disk disk --share . --name another
	expect_out 'generation 1'
	checkpoint --cpus 2
	expect_out 'generation 0'
	checkpoint --cpus 2
	expect_out 'generation 1'
	[ "$(images)" = 2 ] || die "images: $(ls cache/warm)"
	# The same file is another one.
	touch nothing
	checkpoint
	expect_out 'generation 0'
}

test_warm_image_that_is_damaged_is_made_anew() {
	checkpoint
	truncate -s 1M cache/warm/*/memory
	checkpoint
	expect_out 'generation 0'
	checkpoint
	expect_out 'generation 1'
	# Whole by its sums, but of a guest with another clock than this host can give it: found as it is restored.
	printf '\0\0\0\0' | dd of="$(echo cache/warm/*/state)" bs=1 seek=16 conv=notrunc status=none
	checkpoint
	expect_out 'generation 0'
}
