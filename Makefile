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

.PHONY: clean
clean:
	rm -rf $(BUILD)
