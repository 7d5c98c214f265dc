# SPDX-License-Identifier: GPL-2.0-only
# Karma's build: `make` builds build/karma, `make help` lists the rest.

VERSION := 0.1.0
PREFIX ?= /usr/local
DESTDIR ?=
SYSCONFDIR ?= /etc
UNIT_DIR ?= $(PREFIX)/lib/systemd/system
BUILD := build
comma := ,

CFLAGS ?= -O2 -g
WARNINGS := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes $(if $(CI),-Werror)
# All libraries are in it: to load and bind the C library would be a twelfth of a start.
PROGRAM_LDFLAGS := -static-pie -Wl,-z,relro,-z,now,-z,noexecstack
LIBS := liburing liblzma libzstd libdeflate inih jansson

GUEST_DIR := $(PREFIX)/lib/karma/guest
KARMA_CPPFLAGS := -D_GNU_SOURCE -Iinclude -Ihypercalls -I$(BUILD)/gen \
	-DKARMA_VERSION='"$(VERSION)"' -DKARMA_GUEST_DIR='"$(GUEST_DIR)"' \
	-DKARMA_CONFIG_DIR='"$(SYSCONFDIR)/karma"'
KARMA_CFLAGS := -std=gnu11 $(WARNINGS) -pthread -fPIE -fstack-protector-strong \
	-fstack-clash-protection -fcf-protection
# Not for the sanitizers, which look closer.
FORTIFY := -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3
LIB_CFLAGS = $(shell pkg-config --cflags $(LIBS))
LIB_LDLIBS = $(shell pkg-config --static --libs $(LIBS))

SOURCES := $(wildcard src/*.c src/*/*.c hypercalls/*.c)
OBJECTS := $(SOURCES:%.c=$(BUILD)/obj/%.o)
# All but main(): what tests link with.
PARTS := $(filter-out src/cli/main.c,$(SOURCES))

# What `make check` and `make fuzz` do at a time.
JOBS ?= $(shell nproc)

# `make V=1` shows the commands.
Q := $(if $(V),,@)
say = $(if $(V),,@echo "  $(1)")

# The release that `make guest` builds for; empty: Debian's current one.
KVER ?=

.DELETE_ON_ERROR:

.PHONY: all
all: $(BUILD)/karma

.PHONY: help
help:
	@echo 'make               build/karma'
	@echo 'make demo          install what is missing, build, boot a guest and show it'
	@echo 'make check         install what is missing, build and run all tests'
	@echo 'make guest         the guest driver and initramfs, for KVER=RELEASE (the current one)'
	@echo 'make guest-kernel  build/guest/bzImage: a small kernel with the driver built in'
	@echo 'make bench         all benchmarks, beside QEMU microvm: bench-boot, bench-block,'
	@echo '                   bench-net and bench-smp are one each; BENCH=--json, BENCH=--help'
	@echo 'make bench-backend what disks cost on this side, without KVM, beside fio; in bench too'
	@echo 'make unit          the unit tests, under sanitizers'
	@echo 'make check-all     these and what takes hours: the same on Debian 13 (check-trixie), guests'
	@echo '                   of many kernels (check-kernels), packages, image and soaks'
	@echo 'make check-guest   the tests with whole guests; TESTS=PATTERN picks some'
	@echo 'make check-vtx     the tests with whole guests on VT-x, emulated, which takes hours; TESTS=PATTERN'
	@echo 'make fuzz          fuzz what parses bytes, FUZZ_SECONDS=N each; a short run is in check'
	@echo 'make soak          guest after guest, SOAK_RUNS=200 of them: is anything left behind?'
	@echo 'make soak-disk     kill after kill while fio writes: is all there that was flushed?'
	@echo 'make soak-net      large copies over networks, whole and in time'
	@echo 'make install       to PREFIX=$(PREFIX), below DESTDIR; make uninstall takes it away'
	@echo 'make deb           Debian packages, in build/: karma, karma-guest and karma-guest-dkms'
	@echo 'make iso           build/karma.iso, to boot: it takes to a guest at once; check-iso tries it'
	@echo 'make dist          build/karma-$(VERSION).tar.xz, the source'
	@echo 'make clean         remove build/'

.PHONY: demo
demo:
	scripts/dependencies demo
	$(MAKE) all guest
	scripts/demo

# virtio_karma and an initramfs, in build/guest/RELEASE.
.PHONY: guest
guest:
	$(Q)scripts/make-guest $(KVER)

# A small kernel with Karma's driver built in, and its initramfs.
.PHONY: guest-kernel
guest-kernel:
	scripts/dependencies kernel
	$(Q)scripts/make-guest-kernel

.PHONY: docs
docs: $(BUILD)/man/karma-hypercalls.7

$(BUILD)/man/karma-hypercalls.7: man/karma-hypercalls.7.in include/karma/abi.h scripts/abi-table
	@mkdir -p $(@D)
	$(Q)CC='$(CC)' scripts/abi-table page $< >$@

$(BUILD)/karma: $(OBJECTS)
	$(call say,LINK  $@)
	$(Q)$(CC) $(CFLAGS) $(KARMA_CFLAGS) $(PROGRAM_LDFLAGS) $(LDFLAGS) -o $@ $^ $(LIB_LDLIBS)

# Where an installed program looks for its guests' initramfs.
$(BUILD)/gen/prefix: FORCE
	@mkdir -p $(@D)
	@echo '$(PREFIX)' | cmp -s - $@ || echo '$(PREFIX)' >$@

$(BUILD)/obj/src/cli/load.o: $(BUILD)/gen/prefix

.PHONY: FORCE
FORCE:

# What is linked in, told in a line where it is not there.
.PHONY: libraries
libraries:
	$(Q)pkg-config --exists --print-errors --short-errors $(LIBS) libseccomp || \
		{ echo 'What the build needs is not installed: run scripts/dependencies build' >&2; exit 1; }

$(OBJECTS) $(BUILD)/gen/compile-filters: | libraries

$(BUILD)/obj/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(call say,CC    $<)
	$(Q)$(CC) $(KARMA_CPPFLAGS) $(FORTIFY) $(CPPFLAGS) $(LIB_CFLAGS) $(CFLAGS) $(KARMA_CFLAGS) \
		-MMD -MP -c -o $@ $<

-include $(OBJECTS:.o=.d) $(addprefix $(BUILD)/obj/tests/,takeover/takeover.d control/idle.d)

# The tables of system calls, as filters.
FILTERS := $(BUILD)/gen/filters.h

$(BUILD)/gen/compile-filters: src/sandbox/tables/compile.c src/sandbox/tables/tables.h Makefile
	@mkdir -p $(@D)
	$(call say,CC    $<)
	$(Q)$(CC) -D_GNU_SOURCE $(CPPFLAGS) $(CFLAGS) -std=gnu11 $(WARNINGS) -o $@ $< -lseccomp

$(FILTERS): $(BUILD)/gen/compile-filters
	$(call say,GEN   $@)
	$(Q)$< >$@

$(BUILD)/obj/src/sandbox/seccomp.o $(BUILD)/test/obj-asan/src/sandbox/seccomp.o \
	$(BUILD)/test/obj-tsan/src/sandbox/seccomp.o: $(FILTERS)


# --- Tests.

TEST_LIBS := check
TEST_SOURCES := $(wildcard tests/unit/*.c)
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
TINY := $(patsubst tests/guest/tiny/%.S,$(BUILD)/test/tiny/%,$(wildcard tests/guest/tiny/*.S))

# What tests put something of their own in the place of.
TEST_WRAPS := clock_gettime statx pwritev2 io_ring_readv io_ring_writev io_ring_can_link io_ring_fdatasync io_ring_fallocate \
	boot_unpack getrandom

# $(1): name, $(2): flags: the unit tests, with all parts of karma, built that way.
define unit_test
$(BUILD)/test/unit-$(1): $$(PARTS:%.c=$(BUILD)/test/obj-$(1)/%.o) \
		$$(TEST_SOURCES:%.c=$(BUILD)/test/obj-$(1)/%.o)
	$$(call say,LINK  $$@)
	$$(Q)$$(CC) $(2) $$(CFLAGS) -pthread $$(TEST_WRAPS:%=-Wl,--wrap=%) -o $$@ $$^ $$(LIB_LDLIBS) \
		$$(TEST_LDLIBS)

$(BUILD)/test/obj-$(1)/%.o: %.c Makefile
	@mkdir -p $$(@D)
	$$(call say,CC    $$< ($(1)))
	$$(Q)$$(CC) $$(KARMA_CPPFLAGS) $$(LIB_CFLAGS) $$(TEST_CFLAGS) $$(CFLAGS) $$(KARMA_CFLAGS) $(2) \
		-MMD -MP -c -o $$@ $$<

-include $$(PARTS:%.c=$(BUILD)/test/obj-$(1)/%.d) $$(TEST_SOURCES:%.c=$(BUILD)/test/obj-$(1)/%.d)
endef

TEST_CFLAGS = $(shell pkg-config --cflags $(TEST_LIBS))
TEST_LDLIBS = $(shell pkg-config --libs $(TEST_LIBS))

$(eval $(call unit_test,asan,$(SANITIZE)))
$(eval $(call unit_test,tsan,-fsanitize=thread -Wno-tsan))

$(BUILD)/test/tiny/%: tests/guest/tiny/%.S tests/guest/tiny/tiny.h tests/guest/tiny/tiny.ld
	@mkdir -p $(@D)
	$(call say,CC    $<)
	$(Q)$(CC) -nostdlib -static -no-pie -Wl,--build-id=none,--no-warn-rwx-segments,-z,noexecstack \
		-Wl,-T,tests/guest/tiny/tiny.ld -o $@ $<

HOSTILE := $(addprefix tests/guest/hostile/,entry.S hostile.c)

$(BUILD)/test/hostile: $(HOSTILE) tests/guest/hostile/hostile.ld include/karma/abi.h
	@mkdir -p $(@D)
	$(call say,CC    $@)
	$(Q)$(CC) -std=gnu11 $(WARNINGS) -O1 -Iinclude -ffreestanding -fno-pic -mno-red-zone \
		-mgeneral-regs-only -fno-stack-protector -fcf-protection=none \
		-fno-asynchronous-unwind-tables -nostdlib -static -no-pie \
		-Wl,--build-id=none,--no-warn-rwx-segments,-z,noexecstack \
		-Wl,-T,tests/guest/hostile/hostile.ld -o $@ $(HOSTILE)

$(BUILD)/test/kexec: tests/guest/kexec.c Makefile
	@mkdir -p $(@D)
	$(call say,CC    $<)
	$(Q)$(CC) -D_GNU_SOURCE $(CFLAGS) $(KARMA_CFLAGS) -static -o $@ $<

$(BUILD)/test/debian.img: tests/guest/make-debian-image
	$(call say,IMAGE $@)
	$(Q)tests/guest/make-debian-image $@

$(BUILD)/test/i386: tests/guest/make-i386-guest scripts/mkinitramfs $(wildcard guest-kernel/virtio_karma/*) include/karma/abi.h
	$(call say,GUEST $@)
	$(Q)$< $@

# As on a minimal host, and without an initramfs: the tests have one.
$(BUILD)/test/installed: $(BUILD)/karma $(BUILD)/man/karma-hypercalls.7 $(wildcard systemd/*) Makefile
	$(call say,INSTALL $@)
	$(Q)rm -rf $@
	$(Q)$(MAKE) -s install PREFIX=/usr/local DESTDIR=$(abspath $@)
	$(Q)rm -rf $@/usr/local/lib/karma
	$(Q)touch $@

.PHONY: unit unit-asan unit-tsan
unit: unit-asan unit-tsan

# At the end of each test, LeakSanitizer goes through all static data and what is kept of what was freed: so
# little is kept, and large buffers of a test are on its stack.  One of the two runs on a machine that has
# just started, the other on one that is up for ten years.
unit-asan: $(BUILD)/test/unit-asan
	ASAN_OPTIONS=quarantine_size_mb=16:$$ASAN_OPTIONS tests/with-uptime 1 $<

unit-tsan: $(BUILD)/test/unit-tsan
	TSAN_OPTIONS=suppressions=tests/unit/tsan.supp tests/with-uptime 315360000 $<

# The tests with whole guests, in soft hosts where this machine has no KVM that works.
# $(1): options of tests/guest/check, $(2): tests.
guest_tests = $(Q)release=$(or $(KVER),$$(scripts/debian-kernel --release-only)) && \
	tests/guest/check $(1) $$(scripts/debian-kernel $$release)/boot/vmlinuz-$$release $(2)

.PHONY: check-guest check-guest-long
check-guest check-guest-long: all guest $(TINY) $(addprefix $(BUILD)/test/,hostile kexec debian.img i386 installed)
check-guest:
	$(call guest_tests,--host --memory --host 6144,$(TESTS))

# Those that take minutes, and those with Karma's own kernel, which takes minutes to build.
check-guest-long: guest-kernel
	$(call guest_tests,--host --memory --host 6144,long)

# Karma as it is, but for code of ours in the place of a guest that has broken out.
TAKEOVER_WRAPS := sandbox_filter vm_start io_ring_loop ioctl cpu_has_virtualization

$(BUILD)/test/karma-takeover: $(OBJECTS) $(BUILD)/obj/tests/takeover/takeover.o
	@mkdir -p $(@D)
	$(call say,LINK  $@)
	$(Q)$(CC) $(CFLAGS) $(KARMA_CFLAGS) $(PROGRAM_LDFLAGS) $(LDFLAGS) \
		$(addprefix -Wl$(comma)--wrap=,$(TAKEOVER_WRAPS)) -o $@ $^ $(LIB_LDLIBS)

.PHONY: check-takeover
check-takeover: all $(BUILD)/test/karma-takeover $(TINY)
	$(Q)if tests/takeover/run --can; then tests/takeover/run; else \
		scripts/soft-host --cpus 1 --timeout 900 -- tests/takeover/run; fi

# Karma as it is, but for guests that never run.
$(BUILD)/test/karma-idle: $(OBJECTS) $(BUILD)/obj/tests/control/idle.o
	@mkdir -p $(@D)
	$(call say,LINK  $@)
	$(Q)$(CC) $(CFLAGS) $(KARMA_CFLAGS) $(PROGRAM_LDFLAGS) $(LDFLAGS) \
		$(addprefix -Wl$(comma)--wrap=,ioctl cpu_has_virtualization) -o $@ $^ $(LIB_LDLIBS)

# Fifty guests at once, operated by their names.
.PHONY: check-control
check-control: all $(BUILD)/test/karma-idle $(TINY)
	$(Q)if tests/control/run --can; then tests/control/run; else \
		scripts/soft-host --cpus 1 --memory 4096 --timeout 900 -- tests/control/run; fi

$(BUILD)/test/inject: tests/inject/inject.c Makefile
	@mkdir -p $(@D)
	$(call say,CC    $<)
	$(Q)$(CC) -D_GNU_SOURCE $(CFLAGS) $(KARMA_CFLAGS) -o $@ $<

# Each system call of a start fails once.
.PHONY: check-inject
check-inject: $(BUILD)/test/inject $(BUILD)/bench/karma-start $(TINY)
	$(Q)if tests/inject/run --can; then tests/inject/run; else \
		scripts/soft-host --cpus 1 --timeout 1500 -- tests/inject/run; fi

# Guests with kernels of several Debian releases, and one of them: Linux 6.12 with two vCPUs.
.PHONY: check-kernels check-kernel
check-kernels: all
	$(Q)tests/kernels/run

check-kernel: all
	$(Q)tests/kernels/run --cpus 2 trixie amd64 unpacked

# `make check` on Debian 13, in a root of it, which builds in a directory of its own.
.PHONY: check-trixie
check-trixie:
	@mkdir -p $(BUILD)/trixie
	$(Q)scripts/debian-root --bind $(abspath $(BUILD)/trixie):$(abspath $(BUILD)) trixie $(MAKE) check

# The Debian packages in clean roots, which takes minutes: not part of check.
.PHONY: check-packages
check-packages: deb all
	scripts/dependencies test
	$(Q)tests/packages/check

# With shadow paging, as on CPUs without nested paging: always in the soft host.
.PHONY: check-guest-shadow
check-guest-shadow: all guest $(BUILD)/test/i386
	$(call guest_tests,--host --kvm-amd --host npt=0 --host --memory --host 4096,test_command_status_is_karmas \
		'test_i386*' 'test_memory_that*')

# On VT-x, which Bochs emulates: karma check and a guest, with nested and with shadow paging.
.PHONY: check-vtx-start
check-vtx-start: all guest
	$(Q)release=$(or $(KVER),$$(scripts/debian-kernel --release-only)) && \
	tests/vtx/check $$(scripts/debian-kernel $$release)/boot/vmlinuz-$$release

# The tests with whole guests there, which takes hours: not part of check.
.PHONY: check-vtx
check-vtx: all guest $(TINY) $(BUILD)/test/hostile
	scripts/dependencies test
	$(Q)release=$(or $(KVER),$$(scripts/debian-kernel --release-only)) && \
	kernel=$$(readlink -f $$(scripts/debian-kernel $$release))/boot/vmlinuz-$$release && \
	scripts/soft-host --cpu intel --kernel $$release --memory 1536 --env KARMA_KERNEL=$$kernel -- \
		tests/vtx/guest $(TESTS)

# Hundreds of starts, which takes a quarter of an hour in the soft host: not part of check.
.PHONY: soak
soak: all guest
	scripts/dependencies test
	$(Q)release=$(or $(KVER),$$(scripts/debian-kernel --release-only)) && \
	kernel=$$(scripts/debian-kernel $$release)/boot/vmlinuz-$$release && \
	tty= && if [ -t 0 ] && [ -t 1 ]; then tty=--tty; fi && \
	scripts/soft-host --auto --cpus 1 $$tty --env KARMA=$(abspath $(BUILD))/karma \
		$(foreach name,SOAK_RUNS SOAK_RESTARTS,$(if $($(name)),--env $(name)=$($(name)))) \
		-- tests/soak build/guest/bzImage $$kernel

# fio in a guest, whose monitor is killed ten times in a minute of writing, on a file and on an overlay.
.PHONY: soak-disk
soak-disk: export KARMA_VERIFY_KILLS = 10
soak-disk: export KARMA_VERIFY_SECONDS = 60
soak-disk: export KARMA_VERIFY_AREA = 16
soak-disk: export KARMA_TEST_LIMIT = 1400
soak-disk: all guest
	scripts/dependencies test
	$(call guest_tests,--host --memory --host 3072,'test_fio_*')

# Copies of 200 MB each way, by ssh, over TAPs and passt.
.PHONY: soak-net
soak-net: export KARMA_COPY_MEGABYTES = 200
soak-net: export KARMA_TEST_LIMIT = 1400
soak-net: all guest $(BUILD)/test/debian.img
	scripts/dependencies test
	$(call guest_tests,--host --memory --host 6144,'test_net_*large_copies*')

# --- Benchmarks.

BENCH_TOOLS := $(addprefix $(BUILD)/bench/,init launch first-run.so karma-start)

$(BUILD)/bench/init: tests/bench/init.S
	@mkdir -p $(@D)
	$(call say,CC    $<)
	$(Q)$(CC) -nostdlib -static -no-pie -Wl,--build-id=none,-z,noexecstack -o $@ $<

$(BUILD)/bench/launch: tests/bench/launch.c Makefile
	@mkdir -p $(@D)
	$(call say,CC    $<)
	$(Q)$(CC) $(KARMA_CPPFLAGS) $(CFLAGS) $(KARMA_CFLAGS) -static -o $@ $<

$(BUILD)/bench/request-response: tests/bench/request-response.c Makefile
	@mkdir -p $(@D)
	$(call say,CC    $<)
	$(Q)$(CC) $(CFLAGS) $(KARMA_CFLAGS) -static -o $@ $<

$(BUILD)/bench/first-run.so: tests/bench/first-run.c Makefile
	@mkdir -p $(@D)
	$(call say,CC    $<)
	$(Q)$(CC) $(KARMA_CPPFLAGS) $(CFLAGS) $(KARMA_CFLAGS) -shared -fPIC -o $@ $<

$(BUILD)/bench/first-run.o: tests/bench/first-run.c Makefile
	@mkdir -p $(@D)
	$(call say,CC    $<)
	$(Q)$(CC) $(KARMA_CPPFLAGS) $(CFLAGS) $(KARMA_CFLAGS) -DFIRST_RUN_WRAP -c -o $@ $<

# Karma as it is, but for what tells its CPU time at the first KVM_RUN.
$(BUILD)/bench/karma-start: $(OBJECTS) $(BUILD)/bench/first-run.o
	$(call say,LINK  $@)
	$(Q)$(CC) $(CFLAGS) $(KARMA_CFLAGS) $(PROGRAM_LDFLAGS) $(LDFLAGS) \
		-Wl,--wrap=ioctl,--wrap=sandbox_fork,--wrap=kvm_open,--wrap=cpu_has_virtualization,--wrap=elf_load,--wrap=bzimage_load,--wrap=initrd_load \
		-o $@ $^ $(LIB_LDLIBS)

# The devices and what is below them, and a guest in the place of KVM.
$(BUILD)/bench/backend: tests/bench/backend.c $(PARTS:%.c=$(BUILD)/obj/%.o) Makefile
	@mkdir -p $(@D)
	$(call say,CC    $<)
	$(Q)$(CC) $(KARMA_CPPFLAGS) $(LIB_CFLAGS) $(CFLAGS) $(KARMA_CFLAGS) -o $@ \
		$(filter %.c %.o,$^) $(LDFLAGS) $(LIB_LDLIBS)

.PHONY: bench-tools
bench-tools: $(BENCH_TOOLS)

# Side by side with QEMU's microvm, in the soft host where this machine has no KVM that works.
# Nothing but the results on stdout; BENCH has options of each, such as --json.
.PHONY: bench bench-boot bench-block bench-net bench-smp bench-backend
bench:
	$(Q)$(MAKE) -s --no-print-directory bench-boot
	$(Q)$(MAKE) -s --no-print-directory bench-block
	$(Q)$(MAKE) -s --no-print-directory bench-net
	$(Q)$(MAKE) -s --no-print-directory bench-smp
	$(Q)$(MAKE) -s --no-print-directory bench-backend

bench-boot:
	$(Q)scripts/dependencies soft >&2
	$(Q)$(MAKE) -s all bench-tools >&2
	$(Q)release=$(or $(KVER),$$(scripts/debian-kernel --release-only)) && \
	kernel=$$(scripts/debian-kernel $$release)/boot/vmlinuz-$$release && \
	set -- $(BENCH) $$kernel $(wildcard $(BUILD)/guest/bzImage) && \
	export KARMA=$(abspath $(BUILD)/karma) && \
	if [ -t 2 ]; then export KARMA_BENCH_PROGRESS=1; fi && \
	KARMA_BENCH_NATIVE=$$(tests/bench/boot --native "$$@") && export KARMA_BENCH_NATIVE && \
	scripts/soft-host --auto --env KARMA=$$KARMA -- tests/bench/boot "$$@"

# $(1): a benchmark that takes a kernel, $(2): options of the soft host.
bench_with_kernel = $(Q)release=$(or $(KVER),$$(scripts/debian-kernel --release-only)) && \
	scripts/soft-host --auto $(2) --env KARMA=$(abspath $(BUILD)/karma) -- tests/bench/$(1) $(BENCH) \
		$$(scripts/debian-kernel $$release)/boot/vmlinuz-$$release

bench-block:
	$(Q)scripts/dependencies bench >&2
	$(Q)$(MAKE) -s all guest >&2
	$(call bench_with_kernel,block,--memory 4096)

bench-net:
	$(Q)scripts/dependencies bench >&2
	$(Q)$(MAKE) -s all guest $(BUILD)/bench/request-response >&2
	$(call bench_with_kernel,net,--cpus 1 --memory 4096)

bench-smp:
	$(Q)scripts/dependencies soft >&2
	$(Q)$(MAKE) -s all guest >&2
	$(call bench_with_kernel,smp,)

# Needs no KVM, and so no soft host.
bench-backend:
	$(Q)scripts/dependencies bench >&2
	$(Q)$(MAKE) -s $(BUILD)/bench/backend >&2
	$(Q)KARMA_BENCH_TOOLS=$(abspath $(BUILD)/bench) tests/bench/backend $(BENCH)

SCRIPTS = $(shell grep -lE '^\#!/bin/(ba)?sh' -r scripts tests examples guest-kernel .ci) completions/karma.bash

.PHONY: check-scripts
check-scripts:
	$(call say,SHELLCHECK)
	$(Q)shellcheck -x $(SCRIPTS) tests/guest/*.sh
	$(Q)tests/check-scripts

# Coverage-guided fuzzing of what parses a guest's or a user's bytes: bounded; more by FUZZ_RUNS=N, or
# for FUZZ_SECONDS each.  What is new goes to build/fuzz, and from there into the tree by -merge=1.
FUZZ_RUNS ?= 10000
FUZZ_SECONDS ?=
FUZZERS := $(patsubst tests/fuzz/%.c,$(BUILD)/test/%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_OBJECTS := $(patsubst %.c,$(BUILD)/test/obj-fuzz/%.o,$(PARTS) tests/fuzz/guest.c)

# What a fuzzer puts something of its own in the place of.
$(BUILD)/test/fuzz_passt: FUZZ_WRAPS := socketpair posix_spawnp
$(BUILD)/test/fuzz_options: FUZZ_WRAPS := getent
$(BUILD)/test/fuzz_boot: FUZZ_WRAPS := getrandom

$(BUILD)/test/obj-fuzz/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(call say,CLANG $<)
	$(Q)clang -Wno-gnu-variable-sized-type-not-at-end $(KARMA_CPPFLAGS) $(LIB_CFLAGS) -std=gnu11 -O1 -g -pthread \
		-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -MMD -MP -c -o $@ $<

$(BUILD)/test/fuzz_%: $(BUILD)/test/obj-fuzz/tests/fuzz/fuzz_%.o $(FUZZ_OBJECTS)
	$(call say,LINK  $@)
	$(Q)clang -pthread -fsanitize=fuzzer,address,undefined $(FUZZ_WRAPS:%=-Wl$(comma)--wrap=%) -o $@ $^ $(LIB_LDLIBS)

$(BUILD)/test/obj-fuzz/src/sandbox/seccomp.o: $(FILTERS)
.SECONDARY: $(FUZZ_OBJECTS) $(FUZZERS:$(BUILD)/test/%=$(BUILD)/test/obj-fuzz/tests/fuzz/%.o)

-include $(FUZZ_OBJECTS:.o=.d) $(FUZZERS:$(BUILD)/test/%=$(BUILD)/test/obj-fuzz/tests/fuzz/%.d)

FUZZ_EACH := $(FUZZERS:$(BUILD)/test/fuzz_%=fuzz-%)

.PHONY: fuzz fuzzers $(FUZZ_EACH)
fuzzers: $(FUZZERS)

fuzz:
	$(Q)$(MAKE) -j$(JOBS) $(FUZZ_EACH)

$(FUZZ_EACH): fuzz-%: $(BUILD)/test/fuzz_%
	@mkdir -p $(BUILD)/fuzz/$*
	KARMA_CACHE_DIR= $< $(if $(FUZZ_SECONDS),-max_total_time=$(FUZZ_SECONDS),-runs=$(FUZZ_RUNS)) \
		-timeout=120 -close_fd_mask=2 -verbosity=0 -artifact_prefix=$(BUILD)/fuzz/ $(BUILD)/fuzz/$* \
		$(wildcard tests/fuzz/corpus/$*)

.PHONY: check-docs check-hardening
check-docs: all docs
	tests/check-docs

check-hardening: all
	tests/check-hardening

# What is built for the tests; those of them that take one CPU each, the longest first, and those that take all.
.PHONY: check check-all check-programs
check check-all:
	scripts/dependencies test
	$(MAKE) -j$(JOBS) check-programs
	MAKE='$(MAKE)' tests/check $(JOBS) $(CHECK_BESIDE) -- $(CHECK_ALONE) $(if $(filter %-all,$@),$(CHECK_LONG))

check-programs: all docs guest fuzzers $(addprefix $(BUILD)/test/,unit-asan unit-tsan karma-takeover karma-idle inject \
	hostile kexec debian.img i386 installed) $(TINY) $(BUILD)/bench/karma-start

CHECK_BESIDE := check-vtx-start check-inject unit-tsan unit-asan check-guest-shadow check-takeover check-control \
	check-docs check-hardening check-scripts check-kernel $(FUZZ_EACH)
CHECK_ALONE := check-guest
CHECK_LONG := check-guest-long check-trixie check-kernels check-packages check-iso soak soak-disk soak-net

# --- Installation.

INSTALLED := $(DESTDIR)$(PREFIX)
UNITS := $(DESTDIR)$(UNIT_DIR)
MAN_PAGES := $(wildcard man/*.[1-8]) $(BUILD)/man/karma-hypercalls.7
# What DKMS builds the driver from, in a guest: `dkms add` takes the directory.
MODULE_SOURCE := $(DESTDIR)$(PREFIX)/src/virtio_karma-$(VERSION)

# $(1): a file of ours, $(2): where it goes: with the paths of this installation.
install_text = sed 's|/usr/local/|$(PREFIX)/|g; s|/etc/karma|$(SYSCONFDIR)/karma|g' $(1) >$(BUILD)/installed && \
	install -D -m 644 $(BUILD)/installed $(2) && rm $(BUILD)/installed

.PHONY: install
install: all docs
	install -D -m 755 $(BUILD)/karma $(INSTALLED)/bin/karma
	for page in $(MAN_PAGES); do \
		$(call install_text,$$page,$(INSTALLED)/share/man/man$${page##*.}/$${page##*/}) || exit 1; \
	done
	install -D -m 644 include/karma/abi.h $(INSTALLED)/include/karma/abi.h
	install -D -m 644 completions/karma.bash $(INSTALLED)/share/bash-completion/completions/karma
	install -D -m 644 completions/_karma $(INSTALLED)/share/zsh/site-functions/_karma
	install -d $(DESTDIR)$(SYSCONFDIR)/karma
	for image in $(BUILD)/guest/*/initramfs.img; do \
		[ ! -f "$$image" ] || install -D -m 644 "$$image" \
			"$(DESTDIR)$(GUEST_DIR)$${image#$(BUILD)/guest}" || exit 1; \
	done
	$(call install_text,systemd/karma@.service,$(UNITS)/karma@.service)
	install -D -m 644 systemd/karma.slice $(UNITS)/karma.slice
	install -D -m 644 systemd/sysusers.conf $(INSTALLED)/lib/sysusers.d/karma.conf
	$(call install_text,systemd/tmpfiles.conf,$(INSTALLED)/lib/tmpfiles.d/karma.conf)
	for unit in karma-job.socket karma-job@.service; do \
		$(call install_text,systemd/$$unit,$(INSTALLED)/share/doc/karma/examples/$$unit) || exit 1; \
	done
	install -d $(MODULE_SOURCE)/karma
	install -m 644 $(addprefix guest-kernel/virtio_karma/,virtio_karma.c Kbuild Makefile) $(MODULE_SOURCE)
	sed 's/#MODULE_VERSION#/$(VERSION)/' guest-kernel/virtio_karma/dkms.conf >$(MODULE_SOURCE)/dkms.conf
	install -m 644 include/karma/abi.h $(MODULE_SOURCE)/karma
	install -D -m 755 guest-kernel/initramfs-tools/karma \
		$(INSTALLED)/share/initramfs-tools/hooks/karma

# What is the user's stays: /etc/karma and /var/lib/karma.
.PHONY: uninstall
uninstall:
	rm -f $(INSTALLED)/bin/karma \
		$(foreach page,$(MAN_PAGES),$(INSTALLED)/share/man/man$(subst .,,$(suffix $(page)))/$(notdir $(page))) \
		$(INSTALLED)/include/karma/abi.h \
		$(INSTALLED)/share/bash-completion/completions/karma \
		$(INSTALLED)/share/zsh/site-functions/_karma \
		$(UNITS)/karma@.service $(UNITS)/karma.slice \
		$(INSTALLED)/lib/sysusers.d/karma.conf $(INSTALLED)/lib/tmpfiles.d/karma.conf \
		$(INSTALLED)/share/initramfs-tools/hooks/karma
	rm -rf $(DESTDIR)$(GUEST_DIR) $(MODULE_SOURCE) $(INSTALLED)/share/doc/karma
	rmdir $(INSTALLED)/include/karma $(INSTALLED)/lib/karma 2>/dev/null || true

.PHONY: dist
dist:
	$(Q)scripts/make-dist $(VERSION) $(BUILD)/karma-$(VERSION).tar.xz

# In a copy, so that what this tree has built is not in the packages.
.PHONY: deb
deb: dist
	scripts/dependencies deb
	$(Q)scripts/make-deb $(BUILD)/karma-$(VERSION).tar.xz $(BUILD)

.PHONY: iso
iso: $(BUILD)/karma guest-kernel
	scripts/dependencies iso
	$(Q)scripts/make-iso $(BUILD)/karma $(BUILD)/karma.iso

.PHONY: check-iso
check-iso: iso
	scripts/dependencies soft
	$(Q)tests/iso/check

.PHONY: clean
clean:
	rm -rf $(BUILD)
