# SPDX-License-Identifier: GPL-2.0-only
# Karma's build: `make` builds build/karma, `make help` lists the rest.

VERSION := 0.1.0
PREFIX ?= /usr/local
DESTDIR ?=
BUILD := build

CC ?= gcc
CFLAGS ?= -O2 -g
WARNINGS := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes $(if $(CI),-Werror)
LIBS := liburing

GUEST_DIR := $(PREFIX)/lib/karma/guest
KARMA_CPPFLAGS := -D_GNU_SOURCE -Iinclude -Ihypercalls \
	-DKARMA_VERSION='"$(VERSION)"' -DKARMA_GUEST_DIR='"$(GUEST_DIR)"'
KARMA_CFLAGS := -std=gnu11 $(WARNINGS) -pthread -fstack-protector-strong
LIB_CFLAGS = $(shell pkg-config --cflags $(LIBS))
LIB_LDLIBS = $(shell pkg-config --libs $(LIBS))

SOURCES := $(wildcard src/*.c src/*/*.c hypercalls/*.c)
OBJECTS := $(SOURCES:%.c=$(BUILD)/obj/%.o)
# All but main(): what tests link with.
PARTS := $(filter-out src/cli/main.c,$(SOURCES))

# The release that `make guest` builds for; empty: Debian's current one.
KVER ?=

.PHONY: all
all: $(BUILD)/karma

$(BUILD)/karma: $(OBJECTS)
	$(CC) $(CFLAGS) $(KARMA_CFLAGS) $(LDFLAGS) -o $@ $^ $(LIB_LDLIBS)

$(BUILD)/obj/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) $(KARMA_CPPFLAGS) $(CPPFLAGS) $(LIB_CFLAGS) $(CFLAGS) $(KARMA_CFLAGS) -MMD -MP -c -o $@ $<

-include $(OBJECTS:.o=.d)


# --- Tests.

TEST_LIBS := check
TEST_SOURCES := $(wildcard tests/unit/*.c)
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
TINY := $(patsubst tests/guest/tiny/%.S,$(BUILD)/test/tiny/%,$(wildcard tests/guest/tiny/*.S))

# $(1): name, $(2): flags: the unit tests, with all parts of karma, built that way.
define unit_test
$(BUILD)/test/unit-$(1): $$(PARTS:%.c=$(BUILD)/test/obj-$(1)/%.o) \
		$$(TEST_SOURCES:%.c=$(BUILD)/test/obj-$(1)/%.o)
	$$(CC) $(2) $$(CFLAGS) -pthread -o $$@ $$^ $$(LIB_LDLIBS) $$(TEST_LDLIBS)

$(BUILD)/test/obj-$(1)/%.o: %.c Makefile
	@mkdir -p $$(@D)
	$$(CC) $$(KARMA_CPPFLAGS) $$(LIB_CFLAGS) $$(TEST_CFLAGS) $$(CFLAGS) $$(KARMA_CFLAGS) $(2) \
		-MMD -MP -c -o $$@ $$<

-include $$(PARTS:%.c=$(BUILD)/test/obj-$(1)/%.d) $$(TEST_SOURCES:%.c=$(BUILD)/test/obj-$(1)/%.d)
endef

TEST_CFLAGS = $(shell pkg-config --cflags $(TEST_LIBS))
TEST_LDLIBS = $(shell pkg-config --libs $(TEST_LIBS))

$(eval $(call unit_test,asan,$(SANITIZE)))
$(eval $(call unit_test,tsan,-fsanitize=thread))

$(BUILD)/test/tiny/%: tests/guest/tiny/%.S tests/guest/tiny/tiny.h tests/guest/tiny/tiny.ld
	@mkdir -p $(@D)
	$(CC) -nostdlib -static -no-pie -Wl,--build-id=none,--no-warn-rwx-segments,-z,noexecstack \
		-Wl,-T,tests/guest/tiny/tiny.ld -o $@ $<

$(BUILD)/test/debian.img: tests/guest/make-debian-image
	tests/guest/make-debian-image $@

.PHONY: clean
clean:
	rm -rf $(BUILD)
