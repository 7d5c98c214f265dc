// SPDX-License-Identifier: GPL-2.0-only
/* The tables that a kernel finds: memory, GDT, pages and ACPI. */
#include "boot_fixture.h"

START_TEST(e820_maps)
{
	static const struct boot_e820_entry low[] = {
		{ 0, 0x9f000, 1 },
		{ 0x9f000, 0x41000, 2 },
		{ 0xe0000, 0x20000, 3 },
		{ 0x100000, 127 * MIB, 1 },
	};
	static const struct boot_e820_entry high[] = {
		{ 0x100000, 3 * GIB - MIB, 1 },
		{ 4 * GIB, 2 * GIB, 1 },
	};
	struct boot_entry entry;

	write_file(kernel_path, image, make_bzimage());
	resize_guest(128 * MIB);
	ck_assert_int_eq(load(&(struct boot_options){ 0 }, &entry), 0);
	ck_assert_uint_eq(zero_page()->e820_entries, 4);
	ck_assert_mem_eq(zero_page()->e820_table, low, sizeof(low));

	resize_guest(5 * GIB);
	ck_assert_int_eq(load(&(struct boot_options){ 0 }, &entry), 0);
	ck_assert_uint_eq(zero_page()->e820_entries, 5);
	ck_assert_mem_eq(zero_page()->e820_table, low, 3 * sizeof(low[0]));
	ck_assert_mem_eq(zero_page()->e820_table + 3, high, sizeof(high));
}
END_TEST

START_TEST(gdt_and_page_tables)
{
	struct boot_entry entry;
	const uint64_t *gdt, *table;

	write_file(kernel_path, image, make_bzimage());
	ck_assert_int_eq(load(&(struct boot_options){ 0 }, &entry), 0);
	gdt = guest(BOOT_GDT, 6 * 8);
	ck_assert_uint_eq(gdt[0], 0);
	ck_assert_uint_eq(gdt[BOOT_CS / 8], 0x00af9b000000ffff);
	ck_assert_uint_eq(gdt[BOOT_DS / 8], 0x00cf93000000ffff);

	/* Walk to every page below 4 GiB. */
	for (uint64_t address = 0; address < 4 * GIB; address += 2 * MIB) {
		table = guest(BOOT_PAGE_TABLES, PAGE_BYTES);
		ck_assert_uint_eq(table[0] & 0xfff, 3);
		table = guest(align_down(table[0], PAGE_BYTES), PAGE_BYTES);
		ck_assert_uint_eq(table[address / GIB] & 0xfff, 3);
		table = guest(align_down(table[address / GIB], PAGE_BYTES), PAGE_BYTES);
		ck_assert_uint_eq(table[address / (2 * MIB) % 512], address | 0x83);
	}
	table = guest(BOOT_PAGE_TABLES + PAGE_BYTES, PAGE_BYTES);
	ck_assert_uint_eq(table[4], 0);
}
END_TEST

static uint32_t field32(const uint8_t *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return value;
}

static uint64_t field64(const uint8_t *at)
{
	uint64_t value;

	memcpy(&value, at, sizeof(value));
	return value;
}

static void check_sum(const uint8_t *at, size_t size)
{
	uint8_t sum = 0;

	for (size_t i = 0; i < size; i++)
		sum += at[i];
	ck_assert_uint_eq(sum, 0);
}

/* The table at address, which must be whole, in the ACPI area, and named so. */
static const uint8_t *acpi_table(uint64_t address, const char *signature, uint8_t revision)
{
	const uint8_t *table = guest(address, 36);
	uint32_t length = field32(table + 4);

	ck_assert_uint_ge(address, BOOT_ACPI);
	ck_assert_uint_le(address + length, BOOT_ACPI_END);
	ck_assert_mem_eq(table, signature, 4);
	ck_assert_uint_eq(table[8], revision);
	check_sum(table, length);
	return table;
}

static void check_gas(const uint8_t *gas, uint64_t port)
{
	ck_assert_mem_eq(gas, "\x01\x08\x00\x01", 4);
	ck_assert_uint_eq(field64(gas + 4), port);
}

static void check_fadt(const uint8_t *fadt)
{
	const uint8_t *dsdt;

	ck_assert_uint_eq(field32(fadt + 4), 276);
	ck_assert_uint_eq(field32(fadt + 112), 1u << 4 | 1u << 5 | 1u << 10 | 1u << 19 | 1u << 20);
	ck_assert_uint_eq(fadt[109], 0x24);
	ck_assert_uint_eq(fadt[131], 4);
	check_gas(fadt + 116, ACPI_RESET_PORT);
	ck_assert_uint_eq(fadt[128], ACPI_RESET_VALUE);
	check_gas(fadt + 244, ACPI_SLEEP_CONTROL_PORT);
	check_gas(fadt + 256, ACPI_SLEEP_STATUS_PORT);
	dsdt = acpi_table(field64(fadt + 140), "DSDT", 2);
	ck_assert_ptr_nonnull(memmem(dsdt, field32(dsdt + 4), "KRMA0001", 9));
	ck_assert_ptr_nonnull(memmem(dsdt, field32(dsdt + 4), "VM_Gen_Counter", 15));
	ck_assert_ptr_nonnull(memmem(dsdt, field32(dsdt + 4), "\x0c\x00\xf0\x09\x00", 5));
}

static void check_madt(const uint8_t *madt, unsigned cpus)
{
	const uint8_t *at = madt + 44, *end = madt + field32(madt + 4);
	unsigned lapics = 0, x2apics = 0;

	ck_assert_uint_eq(field32(madt + 36), 0xfee00000);
	ck_assert_uint_eq(field32(madt + 40), 0);
	for (; at < end; at += at[1]) {
		ck_assert_uint_ge(at[1], 8);
		if (at[0] == 0) {
			ck_assert_uint_eq(at[3], lapics++);
			ck_assert_uint_eq(field32(at + 4), 1);
		} else {
			ck_assert_uint_eq(at[0], 9);
			ck_assert_uint_eq(field32(at + 4), 255 + x2apics++);
			ck_assert_uint_eq(field32(at + 8), 1);
		}
	}
	ck_assert_ptr_eq(at, end);
	ck_assert_uint_eq(lapics, cpus < 255 ? cpus : 255);
	ck_assert_uint_eq(lapics + x2apics, cpus);
}

START_TEST(acpi_tables)
{
	static const unsigned cpus[] = { 1, 2, 254, 255, 256, 1024, 4096 };

	for (size_t i = 0; i < ARRAY_SIZE(cpus); i++) {
		const uint8_t *rsdp, *xsdt;

		ck_assert_int_eq(acpi_write(&memory, cpus[i]), 0);
		rsdp = guest(BOOT_ACPI, 36);
		ck_assert_mem_eq(rsdp, "RSD PTR ", 8);
		ck_assert_uint_eq(rsdp[15], 2);
		check_sum(rsdp, 20);
		check_sum(rsdp, 36);
		xsdt = acpi_table(field64(rsdp + 24), "XSDT", 1);
		ck_assert_uint_eq(field32(xsdt + 4), 36 + 2 * 8);
		check_fadt(acpi_table(field64(xsdt + 36), "FACP", 6));
		check_madt(acpi_table(field64(xsdt + 44), "APIC", 5), cpus[i]);
	}
}
END_TEST

START_TEST(acpi_without_room)
{
	ck_assert_int_eq(acpi_write(&memory, 1u << 20), -ENOSPC);
	ck_assert_int_eq(acpi_write(&memory, UINT32_MAX), -ENOSPC);
	write_file(kernel_path, image, make_bzimage());
	expect_failure(&(struct boot_options){ .cpus = UINT32_MAX }, -ENOSPC, "--cpus 4294967295",
		"give fewer");
}
END_TEST

void boot_tables_tests(Suite *suite)
{
	const TTest *const tests[] = {
		e820_maps,
		gdt_and_page_tables,
		acpi_tables,
		acpi_without_room,
	};

	add_case(suite, "boot", setup, teardown, 60, tests, ARRAY_SIZE(tests));
}
