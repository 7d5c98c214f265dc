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
LIBS := liburing liblzma libzstd liblz4 libdeflate inih jansson

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
# The guest's agent; what is not its own alone is in karma, too.
AGENT_SOURCES := $(wildcard src/agent/*.c)
AGENT_OWN := $(addprefix src/agent/,command.c enter.c generation.c listen.c main.c process.c request.c run.c serve.c start.c user.c)
AGENT_OBJECTS := $(AGENT_SOURCES:%.c=$(BUILD)/obj/agent/%.o)
OBJECTS := $(patsubst %.c,$(BUILD)/obj/%.o,$(filter-out $(AGENT_OWN),$(SOURCES)))
# All but main(): what tests link with.
PARTS := $(filter-out src/cli/main.c src/agent/main.c,$(SOURCES))

# What `make check` and `make fuzz` do at a time.
JOBS ?= $(shell nproc)

# `make V=1` shows the commands.
Q := $(if $(V),,@)
say = $(if $(V),,@echo "  $(1)")

# The release that `make guest` builds for; empty: Debian's current one.
KVER ?=

.DELETE_ON_ERROR:

.PHONY: all
all: $(BUILD)/karma $(BUILD)/karma-agent

.PHONY: help
help:
	@echo 'make               build/karma'
	@echo 'make demo          install what is missing, build, boot a guest and show it'
	@echo 'make check         install what is missing, build and run all tests'
	@echo 'make check-all     and what takes hours: Debian 13, kernels, packages, soaks'
	@echo 'make unit          the unit tests, under sanitizers'
	@echo 'make check-guest   the tests with whole guests; TESTS=PATTERN picks some'
	@echo 'make check-vtx     these on VT-x, emulated, which takes hours; TESTS=PATTERN'
	@echo 'make fuzz          fuzz what parses bytes, FUZZ_SECONDS=N each'
	@echo 'make soak          guest after guest, SOAK_RUNS=200: is anything left behind?'
	@echo 'make soak-disk     kill after kill while fio writes: is what was flushed there?'
	@echo 'make soak-net      large copies over networks, whole and in time'
	@echo 'make bench         all benchmarks, into doc/performance.md; bench-boot, -block,'
	@echo '                   -net, -reach, -smp, -backend: one each; BENCH=--json; and'
	@echo '                   bench-cold: where the time of a start goes'
	@echo 'make guest         the guest driver and initramfs, for KVER=RELEASE'
	@echo 'make guest-kernel  build/guest/bzImage: a small kernel with the driver built in'
	@echo 'make install       to PREFIX=$(PREFIX), below DESTDIR; make uninstall'
	@echo 'make deb           Debian packages: karma, karma-oci, karma-guest-kernel...'
	@echo 'make iso           build/karma.iso, which boots to a guest; check-iso tries it'
	@echo 'make dist          build/karma-$(VERSION).tar.xz, the source'
	@echo 'make clean         remove build/'

.PHONY: demo
demo:
	scripts/dependencies demo
	$(MAKE) all guest
	scripts/demo

# virtio_karma and an initramfs, in build/guest/RELEASE.
.PHONY: guest
guest: $(BUILD)/karma-agent
	$(Q)scripts/make-guest $(KVER)

# A small kernel with Karma's driver built in, and its initramfs.
.PHONY: guest-kernel
guest-kernel: $(BUILD)/karma-agent
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

# It is in the memory of each guest: with musl it has a tenth of its size.
AGENT_CC := musl-gcc

$(BUILD)/karma-agent: $(AGENT_OBJECTS)
	$(call say,LINK  $@)
	$(Q)$(AGENT_CC) $(CFLAGS) $(KARMA_CFLAGS) -static -Wl,-z,relro,-z,now,-z,noexecstack,--gc-sections -s -o $@ $^

# Where an installed program looks for its guests' initramfs.
$(BUILD)/gen/prefix: FORCE
	@mkdir -p $(@D)
	@echo '$(PREFIX)' | cmp -s - $@ || echo '$(PREFIX)' >$@

$(BUILD)/obj/src/boot/release.o: $(BUILD)/gen/prefix

.PHONY: FORCE
FORCE:

# What is linked in, told in a line where it is not there.
.PHONY: libraries
libraries:
	$(Q)pkg-config --exists --print-errors --short-errors $(LIBS) libseccomp && command -v $(AGENT_CC) >/dev/null || \
		{ echo 'What the build needs is not installed: run scripts/dependencies build' >&2; exit 1; }

$(OBJECTS) $(BUILD)/gen/compile-filters: | libraries

# The kernel's headers come behind musl's.
$(BUILD)/obj/agent/%.o: %.c Makefile | libraries
	@mkdir -p $(@D)
	$(call say,CC    $< (agent))
	$(Q)$(AGENT_CC) $(KARMA_CPPFLAGS) -idirafter /usr/include -idirafter /usr/include/x86_64-linux-gnu \
		$(CFLAGS) $(KARMA_CFLAGS) -Os -ffunction-sections -MMD -MP -c -o $@ $<

$(BUILD)/obj/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(call say,CC    $<)
	$(Q)$(CC) $(KARMA_CPPFLAGS) $(FORTIFY) $(CPPFLAGS) $(LIB_CFLAGS) $(CFLAGS) $(KARMA_CFLAGS) \
		-MMD -MP -c -o $@ $<

-include $(OBJECTS:.o=.d) $(AGENT_OBJECTS:.o=.d) $(addprefix $(BUILD)/obj/tests/,takeover/takeover.d control/idle.d)

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

# What tests, measures and packs it.
include mk/fuzz.mk mk/lint.mk mk/bench.mk mk/package.mk mk/tests.mk

.PHONY: clean
clean:
	rm -rf $(BUILD)
