# SPDX-License-Identifier: GPL-2.0-only
# Benchmarks, beside QEMU's microvm and fio.

BENCH_TOOLS := $(addprefix $(BUILD)/bench/,init launch first-run.so karma-start)

$(BUILD)/bench/init: tests/bench/init.S
	@mkdir -p $(@D)
	$(call say,CC    $<)
	$(Q)$(CC) -nostdlib -static -no-pie -Wl,--build-id=none,-z,noexecstack -o $@ $<

$(BUILD)/bench/launch: tests/bench/launch.c Makefile mk/bench.mk
	@mkdir -p $(@D)
	$(call say,CC    $<)
	$(Q)$(CC) $(KARMA_CPPFLAGS) $(CFLAGS) $(KARMA_CFLAGS) -static -o $@ $<

$(addprefix $(BUILD)/bench/,stream files): $(BUILD)/bench/%: tests/bench/%.c Makefile mk/bench.mk
	@mkdir -p $(@D)
	$(call say,CC    $<)
	$(Q)$(CC) -D_GNU_SOURCE $(CFLAGS) $(KARMA_CFLAGS) -static -o $@ $<

$(BUILD)/bench/first-run.so: tests/bench/first-run.c Makefile mk/bench.mk
	@mkdir -p $(@D)
	$(call say,CC    $<)
	$(Q)$(CC) $(KARMA_CPPFLAGS) $(CFLAGS) $(KARMA_CFLAGS) -shared -fPIC -o $@ $<

$(BUILD)/bench/first-run.o: tests/bench/first-run.c Makefile mk/bench.mk
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
$(BUILD)/bench/backend: tests/bench/backend.c $(PARTS:%.c=$(BUILD)/obj/%.o) Makefile mk/bench.mk
	@mkdir -p $(@D)
	$(call say,CC    $<)
	$(Q)$(CC) $(KARMA_CPPFLAGS) $(LIB_CFLAGS) $(CFLAGS) $(KARMA_CFLAGS) -o $@ \
		$(filter %.c %.o,$^) $(LDFLAGS) $(LIB_LDLIBS)

.PHONY: bench-tools
bench-tools: $(BENCH_TOOLS)

# Side by side with QEMU's microvm, in the soft host where this machine has no KVM that works.
# Nothing but the results on stdout; BENCH has options of each, such as --json.  `make bench` writes them to
# doc/performance.md, too.
BENCHMARKS := boot start block net reach smp backend

.PHONY: bench bench-cold $(BENCHMARKS:%=bench-%)
bench:
	$(Q)scripts/dependencies bench >&2
	@mkdir -p $(BUILD)/bench
	$(Q)for name in $(BENCHMARKS); do \
		$(MAKE) -s --no-print-directory bench-$$name BENCH=--json >$(BUILD)/bench/$$name.json || exit 1; \
	done
	$(Q)tests/bench/report $(BENCHMARKS:%=$(BUILD)/bench/%.json)

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

# Where the time of a start goes: no comparison, so `make bench` has it not.
bench-cold:
	$(Q)scripts/dependencies soft >&2
	$(Q)$(MAKE) -s all guest bench-tools >&2
	$(Q)release=$(or $(KVER),$$(scripts/debian-kernel --release-only)) && \
	scripts/soft-host --auto --memory 3072 --env KARMA=$(abspath $(BUILD)/karma) \
		--env KARMA_GUEST_DIR=$(abspath $(BUILD)/guest) -- tests/bench/cold $(BENCH) \
		$$(scripts/debian-kernel $$release)/boot/vmlinuz-$$release $(wildcard $(BUILD)/guest/bzImage)

# $(1): a benchmark that takes a kernel, $(2): options of the soft host.
bench_with_kernel = $(Q)release=$(or $(KVER),$$(scripts/debian-kernel --release-only)) && \
	scripts/soft-host --auto $(2) --env KARMA=$(abspath $(BUILD)/karma) -- tests/bench/$(1) $(BENCH) \
		$$(scripts/debian-kernel $$release)/boot/vmlinuz-$$release

bench-start:
	$(Q)scripts/dependencies soft >&2
	$(Q)$(MAKE) -s all guest >&2
	$(call bench_with_kernel,start,--cpus 1 --memory 3072)

bench-block:
	$(Q)scripts/dependencies bench >&2
	$(Q)$(MAKE) -s all guest >&2
	$(call bench_with_kernel,block,--memory 4096)

bench-net:
	$(Q)scripts/dependencies bench >&2
	$(Q)$(MAKE) -s all guest $(BUILD)/bench/stream >&2
	$(call bench_with_kernel,net,--cpus 1 --memory 4096)

bench-reach:
	$(Q)scripts/dependencies bench >&2
	$(Q)$(MAKE) -s all guest $(addprefix $(BUILD)/bench/,stream files) >&2
	$(call bench_with_kernel,reach,--cpus 1 --memory 6144)

bench-smp:
	$(Q)scripts/dependencies soft >&2
	$(Q)$(MAKE) -s all guest >&2
	$(call bench_with_kernel,smp,)

# Podman's containers by crun and by karma-oci: changes /etc, and so is in the soft host always.
.PHONY: bench-oci
bench-oci:
	$(Q)scripts/dependencies soft oci >&2
	$(Q)$(MAKE) -s all guest >&2
	$(Q)release=$(or $(KVER),$$(scripts/debian-kernel --release-only)) && \
	scripts/soft-host --memory 4096 -- tests/bench/oci $(BENCH) $$(scripts/debian-kernel $$release)/boot/vmlinuz-$$release

# Needs no KVM, and so no soft host.
bench-backend:
	$(Q)scripts/dependencies bench >&2
	$(Q)$(MAKE) -s $(BUILD)/bench/backend >&2
	$(Q)KARMA_BENCH_TOOLS=$(abspath $(BUILD)/bench) tests/bench/backend $(BENCH)
