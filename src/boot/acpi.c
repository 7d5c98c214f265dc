// SPDX-License-Identifier: GPL-2.0-only
/*
 * Write the ACPI tables of a machine that has CPUs, a power switch, an id and Karma: hardware-reduced ACPI, so
 * none of the PC's fixed hardware.  Section and table numbers are those of ACPI 6.4.
 */
#include <errno.h>
#include <string.h>

#include "karma/boot.h"
#include "karma/util.h"

#define OEM_ID "KARMA "
#define OEM_TABLE_ID "KARMAVMM"
#define CREATOR_ID "KRMA"

/* Where a table starts; XSDT entries only need 8. */
#define TABLE_ALIGN 16u

/* Local APIC ids from here on need x2APIC entries: section 5.2.12.12. */
#define X2APIC_FIRST 255u

struct acpi_rsdp { /* section 5.2.5.3 */
	char signature[8];
	uint8_t checksum; /* of the first 20 bytes */
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt_address;
	uint32_t length;
	uint64_t xsdt_address;
	uint8_t extended_checksum;
	uint8_t reserved[3];
} __attribute__((packed));

struct acpi_header { /* section 5.2.6 */
	char signature[4];
	uint32_t length;
	uint8_t revision;
	uint8_t checksum;
	char oem_id[6];
	char oem_table_id[8];
	uint32_t oem_revision;
	char creator_id[4];
	uint32_t creator_revision;
} __attribute__((packed));

struct acpi_gas { /* section 5.2.3.2 */
	uint8_t space;
	uint8_t bit_width;
	uint8_t bit_offset;
	uint8_t access_size;
	uint64_t address;
} __attribute__((packed));

#define GAS_SYSTEM_IO 1
#define GAS_BYTE_ACCESS 1
#define GAS_PORT(port) ((struct acpi_gas){ GAS_SYSTEM_IO, 8, 0, GAS_BYTE_ACCESS, (port) })

struct acpi_xsdt { /* section 5.2.8 */
	struct acpi_header header;
	uint64_t fadt;
	uint64_t madt;
} __attribute__((packed));

struct acpi_fadt { /* section 5.2.9; what hardware-reduced ACPI ignores is left out */
	struct acpi_header header;
	uint8_t ignored_36[109 - 36];
	uint16_t iapc_boot_arch;
	uint8_t reserved_111;
	uint32_t flags;
	struct acpi_gas reset_register;
	uint8_t reset_value;
	uint16_t arm_boot_arch;
	uint8_t minor_version;
	uint64_t x_firmware_control;
	uint64_t x_dsdt;
	uint8_t ignored_148[244 - 148];
	struct acpi_gas sleep_control;
	struct acpi_gas sleep_status;
	char hypervisor[8];
} __attribute__((packed));

#define FADT_REVISION 6
#define FADT_MINOR 4
#define FADT_PWR_BUTTON (1u << 4) /* set: a control method, and there is none; table 5.10 */
#define FADT_SLP_BUTTON (1u << 5) /* likewise */
#define FADT_RESET_REG_SUP (1u << 10)
#define FADT_PHYSICAL_DESTINATION (1u << 19) /* a message cannot hold x2APIC's logical ones */
#define FADT_HW_REDUCED_ACPI (1u << 20)
#define BOOT_ARCH_NO_VGA (1u << 2) /* table 5.11; the bit for an 8042 stays clear */
#define BOOT_ARCH_NO_CMOS_RTC (1u << 5)

struct acpi_madt { /* section 5.2.12 */
	struct acpi_header header;
	uint32_t lapic_address;
	uint32_t flags; /* PCAT_COMPAT clear: no 8259 */
} __attribute__((packed));

#define MADT_REVISION 5
#define MADT_LAPIC 0
#define MADT_X2APIC 9
#define MADT_ENABLED 1u

struct acpi_lapic { /* section 5.2.12.2 */
	uint8_t type;
	uint8_t length;
	uint8_t uid;
	uint8_t apic_id;
	uint32_t flags;
} __attribute__((packed));

struct acpi_x2apic { /* section 5.2.12.12 */
	uint8_t type;
	uint8_t length;
	uint16_t reserved;
	uint32_t apic_id;
	uint32_t flags;
	uint32_t uid;
} __attribute__((packed));

_Static_assert(sizeof(struct acpi_rsdp) == 36, "RSDP");
_Static_assert(sizeof(struct acpi_header) == 36, "table header");
_Static_assert(offsetof(struct acpi_fadt, reset_register) == 116, "FADT");
_Static_assert(offsetof(struct acpi_fadt, x_dsdt) == 140, "FADT");
_Static_assert(offsetof(struct acpi_fadt, sleep_control) == 244, "FADT");
_Static_assert(sizeof(struct acpi_fadt) == 276, "FADT");

/*
 * DefinitionBlock ("", "DSDT", 2, "KARMA ", "KARMAVMM", 1)
 * {
 *	Name (\_S5, Package () { 5, 0, 0, 0 })
 *	Scope (\_SB)
 *	{
 *		Device (KRMA)
 *		{
 *			Name (_HID, "KRMA0001")
 *			Name (_STA, 0x0F)
 *		}
 *		Device (VGEN)
 *		{
 *			Name (_HID, "KRMA0002")
 *			Name (_CID, Package () { "VM_Gen_Counter", "VMGENCTR" })
 *			Name (_DDN, "VM_Gen_Counter")
 *			Name (ADDR, Package () { GUEST_VMGENID, 0 })
 *			Method (NTFY) { Notify (VGEN, 0x80) }
 *		}
 *	}
 * }
 *
 * in the encoding of section 20.2; a package's length counts itself.  The second device is Microsoft's "Virtual
 * Machine Generation ID", for the guest's own driver of that; with no interrupt for ACPI to come by, Karma's driver
 * evaluates NTFY when the id has changed.
 */
static const uint8_t dsdt_aml[] = {
	0x08, '\\', '_', 'S', '5', '_',                     /* NameOp */
	0x12, 0x07, 0x04, 0x0a, 0x05, 0x00, 0x00, 0x00,     /* PackageOp */
	0x10, 0x4e, 0x08, '\\', '_', 'S', 'B', '_',         /* ScopeOp */
	0x5b, 0x82, 0x1b, 'K', 'R', 'M', 'A',               /* DeviceOp */
	0x08, '_', 'H', 'I', 'D',                           /* NameOp */
	0x0d, 'K', 'R', 'M', 'A', '0', '0', '0', '1', '\0', /* StringPrefix */
	0x08, '_', 'S', 'T', 'A', 0x0a, 0x0f,               /* NameOp, BytePrefix */
	0x5b, 0x82, 0x48, 0x06, 'V', 'G', 'E', 'N',         /* DeviceOp */
	0x08, '_', 'H', 'I', 'D',                           /* NameOp */
	0x0d, 'K', 'R', 'M', 'A', '0', '0', '0', '2', '\0', /* StringPrefix */
	0x08, '_', 'C', 'I', 'D', 0x12, 0x1c, 0x02,         /* NameOp, PackageOp */
	0x0d, 'V', 'M', '_', 'G', 'e', 'n', '_', 'C', 'o', 'u', 'n', 't', 'e', 'r', '\0',
	0x0d, 'V', 'M', 'G', 'E', 'N', 'C', 'T', 'R', '\0',
	0x08, '_', 'D', 'D', 'N',                           /* NameOp */
	0x0d, 'V', 'M', '_', 'G', 'e', 'n', '_', 'C', 'o', 'u', 'n', 't', 'e', 'r', '\0',
	0x08, 'A', 'D', 'D', 'R', 0x12, 0x08, 0x02,         /* NameOp, PackageOp */
	0x0c, GUEST_VMGENID & 0xff, GUEST_VMGENID >> 8 & 0xff, GUEST_VMGENID >> 16, 0x00, /* DWordPrefix */
	0x00,                                               /* ZeroOp */
	0x14, 0x0d, 'N', 'T', 'F', 'Y', 0x00,               /* MethodOp, no arguments */
	0x86, 'V', 'G', 'E', 'N', 0x0a, 0x80,               /* NotifyOp, BytePrefix */
};

/* Neither RAM to the guest, nor memory that it may free once it has read the tables. */
_Static_assert(GUEST_VMGENID >= BOOT_LOW_END && GUEST_VMGENID + 16 <= BOOT_ACPI, "VMGENID");

#define DSDT_REVISION 2 /* 64-bit integers: section 5.2.11.1 */

/* The part of guest memory that the tables fill, from its start on. */
struct acpi_area {
	uint8_t *base;
	size_t size;
	size_t used;
};

static uint8_t checksum(const void *data, size_t size)
{
	const uint8_t *bytes = data;
	uint8_t sum = 0;

	for (size_t i = 0; i < size; i++)
		sum += bytes[i];
	return (uint8_t)-sum;
}

static struct acpi_header header(const char *signature, uint8_t revision, size_t length)
{
	struct acpi_header header = {
		.length = (uint32_t)length,
		.revision = revision,
		.oem_revision = 1,
		.creator_revision = 1,
	};

	memcpy(header.signature, signature, sizeof(header.signature));
	memcpy(header.oem_id, OEM_ID, sizeof(header.oem_id));
	memcpy(header.oem_table_id, OEM_TABLE_ID, sizeof(header.oem_table_id));
	memcpy(header.creator_id, CREATOR_ID, sizeof(header.creator_id));
	return header;
}

/* size bytes of the area, aligned, or NULL if it is full. */
static void *reserve(struct acpi_area *area, size_t size)
{
	size_t start = (area->used + TABLE_ALIGN - 1) & ~(size_t)(TABLE_ALIGN - 1);

	if (start > area->size || size > area->size - start)
		return NULL;
	area->used = start + size;
	return area->base + start;
}

/* The guest-physical address of a table in the area. */
static uint64_t address_of(const struct acpi_area *area, const void *table)
{
	return BOOT_ACPI + (uint64_t)((const uint8_t *)table - area->base);
}

static struct acpi_header *write_dsdt(struct acpi_area *area)
{
	size_t size = sizeof(struct acpi_header) + sizeof(dsdt_aml);
	struct acpi_header *dsdt = reserve(area, size);

	if (!dsdt)
		return NULL;
	*dsdt = header("DSDT", DSDT_REVISION, size);
	memcpy(dsdt + 1, dsdt_aml, sizeof(dsdt_aml));
	dsdt->checksum = checksum(dsdt, size);
	return dsdt;
}

static struct acpi_fadt *write_fadt(struct acpi_area *area, const struct acpi_header *dsdt)
{
	struct acpi_fadt *fadt = reserve(area, sizeof(*fadt));

	if (!fadt)
		return NULL;
	*fadt = (struct acpi_fadt){
		.header = header("FACP", FADT_REVISION, sizeof(*fadt)),
		.iapc_boot_arch = BOOT_ARCH_NO_VGA | BOOT_ARCH_NO_CMOS_RTC,
		.flags = FADT_PWR_BUTTON | FADT_SLP_BUTTON | FADT_RESET_REG_SUP |
			 FADT_PHYSICAL_DESTINATION | FADT_HW_REDUCED_ACPI,
		.reset_register = GAS_PORT(ACPI_RESET_PORT),
		.reset_value = ACPI_RESET_VALUE,
		.minor_version = FADT_MINOR,
		.x_dsdt = address_of(area, dsdt),
		.sleep_control = GAS_PORT(ACPI_SLEEP_CONTROL_PORT),
		.sleep_status = GAS_PORT(ACPI_SLEEP_STATUS_PORT),
		.hypervisor = "Karma",
	};
	fadt->header.checksum = checksum(fadt, sizeof(*fadt));
	return fadt;
}

static size_t madt_bytes(unsigned cpus)
{
	size_t lapics = cpus < X2APIC_FIRST ? cpus : X2APIC_FIRST;

	return sizeof(struct acpi_madt) + lapics * sizeof(struct acpi_lapic) +
	       (cpus - lapics) * sizeof(struct acpi_x2apic);
}

static void *write_cpu(void *at, unsigned cpu)
{
	struct acpi_lapic *lapic = at;
	struct acpi_x2apic *x2apic = at;

	if (cpu < X2APIC_FIRST) {
		*lapic = (struct acpi_lapic){
			.type = MADT_LAPIC,
			.length = sizeof(*lapic),
			.uid = (uint8_t)cpu,
			.apic_id = (uint8_t)cpu,
			.flags = MADT_ENABLED,
		};
		return lapic + 1;
	}
	*x2apic = (struct acpi_x2apic){
		.type = MADT_X2APIC,
		.length = sizeof(*x2apic),
		.apic_id = cpu,
		.flags = MADT_ENABLED,
		.uid = cpu,
	};
	return x2apic + 1;
}

static struct acpi_madt *write_madt(struct acpi_area *area, unsigned cpus)
{
	size_t size = madt_bytes(cpus);
	struct acpi_madt *madt = reserve(area, size);
	void *at;

	if (!madt)
		return NULL;
	*madt = (struct acpi_madt){
		.header = header("APIC", MADT_REVISION, size),
		.lapic_address = LAPIC_ADDRESS,
	};
	at = madt + 1;
	for (unsigned i = 0; i < cpus; i++)
		at = write_cpu(at, i);
	madt->header.checksum = checksum(madt, size);
	return madt;
}

static struct acpi_xsdt *write_xsdt(
	struct acpi_area *area, const struct acpi_fadt *fadt, const struct acpi_madt *madt)
{
	struct acpi_xsdt *xsdt = reserve(area, sizeof(*xsdt));

	if (!xsdt)
		return NULL;
	*xsdt = (struct acpi_xsdt){
		.header = header("XSDT", 1, sizeof(*xsdt)),
		.fadt = address_of(area, fadt),
		.madt = address_of(area, madt),
	};
	xsdt->header.checksum = checksum(xsdt, sizeof(*xsdt));
	return xsdt;
}

static void write_rsdp(struct acpi_rsdp *rsdp, uint64_t xsdt_address)
{
	*rsdp = (struct acpi_rsdp){
		.revision = 2,
		.length = sizeof(*rsdp),
		.xsdt_address = xsdt_address,
	};
	memcpy(rsdp->signature, "RSD PTR ", sizeof(rsdp->signature));
	memcpy(rsdp->oem_id, OEM_ID, sizeof(rsdp->oem_id));
	rsdp->checksum = checksum(rsdp, offsetof(struct acpi_rsdp, length));
	rsdp->extended_checksum = checksum(rsdp, sizeof(*rsdp));
}

int acpi_write(struct guest_memory *memory, unsigned cpus)
{
	struct acpi_area area = { .size = BOOT_ACPI_END - BOOT_ACPI };
	struct acpi_rsdp *rsdp;
	struct acpi_header *dsdt;
	struct acpi_fadt *fadt;
	struct acpi_madt *madt;
	struct acpi_xsdt *xsdt;

	area.base = guest_memory_at(memory, GPA(BOOT_ACPI), area.size);
	if (!area.base)
		return -ENOSPC;
	rsdp = reserve(&area, sizeof(*rsdp));
	dsdt = write_dsdt(&area);
	if (!rsdp || !dsdt)
		return -ENOSPC;
	fadt = write_fadt(&area, dsdt);
	madt = write_madt(&area, cpus);
	if (!fadt || !madt)
		return -ENOSPC;
	xsdt = write_xsdt(&area, fadt, madt);
	if (!xsdt)
		return -ENOSPC;
	write_rsdp(rsdp, address_of(&area, xsdt));
	return 0;
}
