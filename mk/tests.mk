# SPDX-License-Identifier: GPL-2.0-only
# The tests, and `make check`.

TEST_LIBS := check
TEST_SOURCES := $(wildcard tests/unit/*.c)
# To compile takes half the time so, and nothing is measured by them.
TEST_OPTIMIZE := -O1 -g1
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
TINY := $(patsubst tests/guest/tiny/%.S,$(BUILD)/test/tiny/%,$(wildcard tests/guest/tiny/*.S))

# What tests put something of their own in the place of.
TEST_WRAPS := clock_gettime statx pwritev2 io_ring_readv io_ring_writev io_ring_can_link io_ring_fdatasync io_ring_fallocate \
	boot_unpack getrandom unshare ioctl

# $(1): name, $(2): flags: the unit tests, with all parts of karma, built that way.
define unit_test
$(BUILD)/test/unit-$(1): $$(PARTS:%.c=$(BUILD)/test/obj-$(1)/%.o) \
		$$(TEST_SOURCES:%.c=$(BUILD)/test/obj-$(1)/%.o)
	$$(call say,LINK  $$@)
	$$(Q)$$(CC) $(2) $$(CFLAGS) -pthread $$(TEST_WRAPS:%=-Wl,--wrap=%) -o $$@ $$^ $$(LIB_LDLIBS) \
		$$(TEST_LDLIBS)

$(BUILD)/test/obj-$(1)/%.o: %.c Makefile mk/tests.mk
	@mkdir -p $$(@D)
	$$(call say,CC    $$< ($(1)))
	$$(Q)$$(CC) $$(KARMA_CPPFLAGS) $$(LIB_CFLAGS) $$(TEST_CFLAGS) $$(CFLAGS) $$(TEST_OPTIMIZE) $$(KARMA_CFLAGS) $(2) \
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

HOSTILE := $(addprefix tests/guest/hostile/,entry.S hostile.c fuse.c go_on.c)

$(BUILD)/test/hostile: $(HOSTILE) $(addprefix tests/guest/hostile/,hostile.h hostile.ld) include/karma/abi.h
	@mkdir -p $(@D)
	$(call say,CC    $@)
	$(Q)$(CC) -std=gnu11 $(WARNINGS) -O1 -Iinclude -ffreestanding -fno-pic -mno-red-zone \
		-mgeneral-regs-only -fno-stack-protector -fcf-protection=none \
		-fno-asynchronous-unwind-tables -nostdlib -static -no-pie \
		-Wl,--build-id=none,--no-warn-rwx-segments,-z,noexecstack \
		-Wl,-T,tests/guest/hostile/hostile.ld -o $@ $(HOSTILE)

$(addprefix $(BUILD)/test/,kexec vsock): $(BUILD)/test/%: tests/guest/%.c Makefile mk/tests.mk
	@mkdir -p $(@D)
	$(call say,CC    $<)
	$(Q)$(CC) -D_GNU_SOURCE $(CFLAGS) $(KARMA_CFLAGS) -static -o $@ $<

CONFORMANCE := $(wildcard tests/share/*.c)

$(BUILD)/test/conformance: $(CONFORMANCE) tests/share/conformance.h Makefile mk/tests.mk
	@mkdir -p $(@D)
	$(call say,CC    $@)
	$(Q)$(CC) -D_GNU_SOURCE $(CFLAGS) $(KARMA_CFLAGS) -static -o $@ $(CONFORMANCE)

$(BUILD)/test/debian.img $(BUILD)/test/trixie.img: tests/guest/make-debian-image
	$(call say,IMAGE $@)
	$(Q)$< $@ $(filter trixie,$(basename $(@F)))

$(BUILD)/test/i386: tests/guest/make-i386-guest scripts/mkinitramfs scripts/initramfs-init $(BUILD)/karma-agent $(wildcard guest-kernel/virtio_karma/*) include/karma/abi.h
	$(call say,GUEST $@)
	$(Q)$< $@

# As on a minimal host, and without an initramfs: the tests have one.
$(BUILD)/test/installed: $(BUILD)/karma $(BUILD)/man/karma-hypercalls.7 $(wildcard systemd/*) Makefile mk/tests.mk
	$(call say,INSTALL $@)
	$(Q)rm -rf $@
	$(Q)$(MAKE) -s install PREFIX=/usr/local DESTDIR=$(abspath $@)
	$(Q)rm -rf $@/usr/local/lib/karma
	$(Q)touch $@

.PHONY: unit unit-asan unit-tsan
unit: unit-asan unit-tsan

# At the end of each test, LeakSanitizer goes through all static data and what is kept of what was freed: so
# little is kept, and large buffers of a test are on its stack.  TSan has what threads share, or what depends
# on the clock.  One of the two runs on a machine that has just started, the other on one that is up for ten
# years.
unit-asan: $(BUILD)/test/unit-asan
	ASAN_OPTIONS=quarantine_size_mb=16:$$ASAN_OPTIONS tests/with-uptime 1 $<

unit-tsan: $(BUILD)/test/unit-tsan
	KARMA_TEST_THREADS=1 TSAN_OPTIONS=suppressions=tests/unit/tsan.supp tests/with-uptime 315360000 $<

# The tests with whole guests, in soft hosts where this machine has no KVM that works.
# $(1): options of tests/guest/check, $(2): tests.
guest_tests = $(Q)release=$(or $(KVER),$$(scripts/debian-kernel --release-only)) && \
	tests/guest/check $(1) $$(scripts/debian-kernel $$release)/boot/vmlinuz-$$release $(2)

.PHONY: check-guest check-guest-long
check-guest check-guest-long: all guest $(TINY) $(addprefix $(BUILD)/test/,hostile kexec vsock conformance debian.img i386 installed)
check-guest:
	$(call guest_tests,--host --memory --host 6144,$(TESTS))

# Those that take minutes, and those with Karma's own kernel, which takes minutes to build.
check-guest-long: guest-kernel $(BUILD)/test/trixie.img
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

$(BUILD)/test/inject: tests/inject/inject.c Makefile mk/tests.mk
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

# With shadow paging, as on CPUs without nested paging: always in the soft host.  QEMU 10's SVM halts any guest at its
# first page faults then; QEMU 7.2's runs them, with the same host kernel.
.PHONY: check-guest-shadow
check-guest-shadow: all guest $(BUILD)/test/i386
	$(Q)if ! qemu-system-x86_64 --version | grep -q 'version 10[.]'; then \
		$(MAKE) -s --no-print-directory check-guest-shadow-here; \
	else echo "without nested paging, QEMU 10 halts any guest: try one of another release"; \
		echo "0 passed, 0 failed, 3 skipped"; fi

.PHONY: check-guest-shadow-here
check-guest-shadow-here:
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

# What containers do, with crun and with karma-oci side by side, by podman: not part of check.  TESTS=NAME... picks some.
.PHONY: check-oci
check-oci: all guest
	scripts/dependencies test oci
	$(Q)release=$(or $(KVER),$$(scripts/debian-kernel --release-only)) && \
	scripts/soft-host --memory 4096 -- tests/oci/run \
		$$(scripts/debian-kernel $$release)/boot/vmlinuz-$$release $(BUILD)/guest/$$release/initramfs.img $(TESTS)

# karma-oci by containerd, with Karma's own kernel: not part of check.
.PHONY: check-containerd
check-containerd: all guest-kernel
	scripts/dependencies test oci engines
	$(Q)scripts/soft-host --memory 4096 -- tests/oci/containerd

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

# fio in a guest, whose monitor is killed ten times in a minute of writing, on a file and on an overlay; and which is
# saved 50 times while it writes.
.PHONY: soak-disk
soak-disk: export KARMA_VERIFY_KILLS = 10
soak-disk: export KARMA_VERIFY_SECONDS = 60
soak-disk: export KARMA_VERIFY_SNAPSHOTS = 50
soak-disk: export KARMA_VERIFY_AREA = 16
soak-disk: export KARMA_TEST_LIMIT = 2400
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

# What is built for the tests; those of them that take one CPU each, the longest first, and those that take all.
.PHONY: check check-all check-programs
check check-all:
	scripts/dependencies test
	$(MAKE) -j$(JOBS) check-programs
	MAKE='$(MAKE)' tests/check $(JOBS) $(CHECK_BESIDE) -- $(CHECK_ALONE) $(if $(filter %-all,$@),$(CHECK_LONG))

check-programs: all docs guest fuzzers $(addprefix $(BUILD)/test/,unit-asan unit-tsan karma-takeover karma-idle inject \
	hostile kexec vsock conformance debian.img i386 installed) $(TINY) $(BUILD)/bench/karma-start

CHECK_BESIDE := check-vtx-start check-inject unit-tsan unit-asan check-guest-shadow check-takeover check-control \
	check-docs check-hardening check-scripts check-tree check-kernel $(FUZZ_EACH)
CHECK_ALONE := check-guest
CHECK_LONG := check-guest-long check-trixie check-kernels check-packages check-containerd check-iso soak soak-disk soak-net
