# SPDX-License-Identifier: GPL-2.0-only
# Coverage-guided fuzzing of what parses a guest's or a user's bytes: bounded; more by FUZZ_RUNS=N, or
# for FUZZ_SECONDS each.  What is new goes to build/fuzz, and from there into the tree by -merge=1.
FUZZ_RUNS ?= 10000
FUZZ_SECONDS ?=
FUZZERS := $(patsubst tests/fuzz/%.c,$(BUILD)/test/%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_OBJECTS := $(patsubst %.c,$(BUILD)/test/obj-fuzz/%.o,$(PARTS) tests/fuzz/guest.c)
# The main loop of those of devices, and timers for those whose devices wait.
FUZZ_DEVICE := $(BUILD)/test/obj-fuzz/tests/fuzz/device.o
FUZZ_TIMERS := $(BUILD)/test/obj-fuzz/tests/fuzz/timers.o

$(addprefix $(BUILD)/test/fuzz_,balloon blk console rng vsock): $(FUZZ_DEVICE)
$(addprefix $(BUILD)/test/fuzz_,blk net): $(FUZZ_TIMERS)

# What a fuzzer puts something of its own in the place of.
$(BUILD)/test/fuzz_passt: FUZZ_WRAPS := socketpair posix_spawnp
$(BUILD)/test/fuzz_options: FUZZ_WRAPS := getent
$(BUILD)/test/fuzz_vhost_user: FUZZ_WRAPS := send_with_fds
$(BUILD)/test/fuzz_boot: FUZZ_WRAPS := getrandom
$(BUILD)/test/fuzz_vm_state: FUZZ_WRAPS := ioctl
$(addprefix $(BUILD)/test/fuzz_,blk net): FUZZ_WRAPS := io_ring_timeout

$(BUILD)/test/obj-fuzz/%.o: %.c Makefile mk/fuzz.mk
	@mkdir -p $(@D)
	$(call say,CLANG $<)
	$(Q)clang -Wno-gnu-variable-sized-type-not-at-end $(KARMA_CPPFLAGS) $(LIB_CFLAGS) -std=gnu11 -O1 -g -pthread \
		-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -MMD -MP -c -o $@ $<

$(BUILD)/test/fuzz_%: $(BUILD)/test/obj-fuzz/tests/fuzz/fuzz_%.o $(FUZZ_OBJECTS)
	$(call say,LINK  $@)
	$(Q)clang -pthread -fsanitize=fuzzer,address,undefined $(FUZZ_WRAPS:%=-Wl$(comma)--wrap=%) -o $@ $^ $(LIB_LDLIBS)

$(BUILD)/test/obj-fuzz/src/sandbox/seccomp.o: $(FILTERS)
.SECONDARY: $(FUZZ_OBJECTS) $(FUZZ_DEVICE) $(FUZZ_TIMERS) $(FUZZERS:$(BUILD)/test/%=$(BUILD)/test/obj-fuzz/tests/fuzz/%.o)

-include $(patsubst %.o,%.d,$(FUZZ_OBJECTS) $(FUZZ_DEVICE) $(FUZZ_TIMERS)) $(FUZZERS:$(BUILD)/test/%=$(BUILD)/test/obj-fuzz/tests/fuzz/%.d)

FUZZ_EACH := $(FUZZERS:$(BUILD)/test/fuzz_%=fuzz-%)

.PHONY: fuzz fuzzers $(FUZZ_EACH)
fuzzers: $(FUZZERS)

fuzz:
	$(Q)$(MAKE) -j$(JOBS) $(FUZZ_EACH)

$(FUZZ_EACH): fuzz-%: $(BUILD)/test/fuzz_%
	@mkdir -p $(BUILD)/fuzz/$*
	KARMA_CACHE_DIR= $< $(if $(FUZZ_SECONDS),-max_total_time=$(FUZZ_SECONDS),-runs=$(FUZZ_RUNS) -seed=1) \
		-timeout=120 -close_fd_mask=2 -verbosity=0 -artifact_prefix=$(BUILD)/fuzz/ $(BUILD)/fuzz/$* \
		$(wildcard tests/fuzz/corpus/$*)
