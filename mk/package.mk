# SPDX-License-Identifier: GPL-2.0-only
# Installation, packages, the image and the archive of the source.

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
	ln -sf karma $(INSTALLED)/bin/karma-oci
	install -D -m 755 $(BUILD)/karma-agent $(INSTALLED)/lib/karma/karma-agent
	for page in $(MAN_PAGES); do \
		$(call install_text,$$page,$(INSTALLED)/share/man/man$${page##*.}/$${page##*/}) || exit 1; \
	done
	install -D -m 644 include/karma/abi.h $(INSTALLED)/include/karma/abi.h
	install -D -m 644 completions/karma.bash $(INSTALLED)/share/bash-completion/completions/karma
	install -D -m 644 completions/_karma $(INSTALLED)/share/zsh/site-functions/_karma
	install -d $(DESTDIR)$(SYSCONFDIR)/karma
	for image in $(BUILD)/guest/mkinitramfs $(BUILD)/guest/initramfs-init $(BUILD)/guest/karma-agent; do \
		[ ! -f "$$image" ] || install -D -m 755 "$$image" "$(DESTDIR)$(GUEST_DIR)/$${image##*/}" || exit 1; \
	done
	for image in $(addprefix $(BUILD)/guest/,vmlinux bzImage initramfs.img */initramfs.img); do \
		[ ! -f "$$image" ] || install -D -m 644 "$$image" \
			"$(DESTDIR)$(GUEST_DIR)$${image#$(BUILD)/guest}" || exit 1; \
	done
	$(call install_text,systemd/karma@.service,$(UNITS)/karma@.service)
	$(call install_text,systemd/karma-agent.service,$(UNITS)/karma-agent.service)
	install -D -m 644 systemd/karma.slice $(UNITS)/karma.slice
	install -D -m 644 systemd/sysusers.conf $(INSTALLED)/lib/sysusers.d/karma.conf
	$(call install_text,systemd/tmpfiles.conf,$(INSTALLED)/lib/tmpfiles.d/karma.conf)
	for unit in karma-job.socket karma-job@.service; do \
		$(call install_text,systemd/$$unit,$(INSTALLED)/share/doc/karma/examples/$$unit) || exit 1; \
	done
	install -d $(MODULE_SOURCE)/karma
	install -m 644 $(wildcard guest-kernel/virtio_karma/*.[ch]) $(addprefix guest-kernel/virtio_karma/,Kbuild Makefile) $(MODULE_SOURCE)
	sed 's/#MODULE_VERSION#/$(VERSION)/' guest-kernel/virtio_karma/dkms.conf >$(MODULE_SOURCE)/dkms.conf
	install -m 644 include/karma/abi.h $(MODULE_SOURCE)/karma
	install -D -m 755 guest-kernel/initramfs-tools/karma \
		$(INSTALLED)/share/initramfs-tools/hooks/karma

# What is the user's stays: /etc/karma and /var/lib/karma.
.PHONY: uninstall
uninstall:
	rm -f $(INSTALLED)/bin/karma $(INSTALLED)/bin/karma-oci $(INSTALLED)/lib/karma/karma-agent \
		$(foreach page,$(MAN_PAGES),$(INSTALLED)/share/man/man$(subst .,,$(suffix $(page)))/$(notdir $(page))) \
		$(INSTALLED)/include/karma/abi.h \
		$(INSTALLED)/share/bash-completion/completions/karma \
		$(INSTALLED)/share/zsh/site-functions/_karma \
		$(UNITS)/karma@.service $(UNITS)/karma-agent.service $(UNITS)/karma.slice \
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

# The Debian packages in clean roots, which takes minutes: not part of check.
.PHONY: check-packages
check-packages: deb all
	scripts/dependencies test
	$(Q)tests/packages/check

.PHONY: iso
iso: $(BUILD)/karma guest-kernel
	scripts/dependencies iso
	$(Q)scripts/make-iso $(BUILD)/karma $(BUILD)/karma.iso

.PHONY: check-iso
check-iso: iso
	scripts/dependencies soft
	$(Q)tests/iso/check
