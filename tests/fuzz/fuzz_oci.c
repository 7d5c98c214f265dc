// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz the translation of a container's configuration, and the process that comes out of it: whatever an engine writes, it is
 * refused, or the result passes the same checks again inside of the container.
 *
 * The first byte chooses: the bytes behind it are annotations, or a configuration.
 */
#include <string.h>

#include "../../src/oci/oci.h"
#include "karma/util.h"
#include "karma/vm.h"
#include "script.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void translate(json_t *config)
{
	const struct oci_settings settings = { .kernel = "/kernel", .initrd = "/initrd" };
	struct oci_process parsed = { 0 };
	json_t *process, *original = json_deep_copy(json_object_get(config, "process"));

	if (oci_translate(config, &settings, "/karma") == 0) {
		process = oci_original_process(config);
		check(process && json_equal(process, original));
		check(oci_process_parse(&parsed, process) == 0);
		check(parsed.command.argument_count > 0 && parsed.command.process_length > 0);
		oci_process_release(&parsed);
		json_decref(process);
	}
	json_decref(original);
}

static void annotate(const json_t *annotations)
{
	struct oci_settings settings = { 0 };

	if (oci_settings_annotate(&settings, annotations) == 0)
		check(settings.cpus <= VCPUS_MAX && settings.memory % PAGE_BYTES == 0);
	oci_settings_release(&settings);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	json_t *value = size > 1 ? json_loadb((const char *)data + 1, size - 1, 0, NULL) : NULL;

	if (json_is_object(value) && data[0] & 1)
		annotate(value);
	else if (json_is_object(value))
		translate(value);
	json_decref(value);
	return 0;
}
