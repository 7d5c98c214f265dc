# SPDX-License-Identifier: GPL-2.0-only
# What is checked without running a test: scripts, the tree, documents, the program's hardening.

SCRIPTS = $(shell grep -lE '^\#!/bin/(ba)?sh' -r scripts tests examples guest-kernel .ci) completions/karma.bash

.PHONY: check-scripts
check-scripts:
	$(call say,SHELLCHECK)
	$(Q)shellcheck -x $(SCRIPTS) tests/guest/*.sh
	$(Q)tests/check-scripts

.PHONY: check-tree
check-tree:
	$(Q)tests/check-includes
	$(Q)tests/check-sizes

.PHONY: check-docs check-hardening
check-docs: all docs
	tests/check-docs

check-hardening: all
	tests/check-hardening
