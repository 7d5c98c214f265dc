// SPDX-License-Identifier: GPL-2.0-only
/* Which features one CPUID tells of and another lacks, by the names that Linux has for them in /proc/cpuinfo. */
#include <stdio.h>
#include <string.h>

#include "karma/util.h"
#include "karma/vm.h"

#define NAMES_BYTES 320
/* Copies of bits of CR4, which the guest sets. */
#define LEAF1_ECX_OSXSAVE (1u << 27)
#define LEAF7_ECX_OSPKE (1u << 4)

enum cpuid_register { EAX, EBX, ECX, EDX };

/*
 * Intel SDM volume 2, CPUID; AMD64 APM volume 3, appendix E; Linux, Documentation/virt/kvm/x86/cpuid.rst.  Names from
 * bit 0 on, `-` for one that has none.  An array of arrays: one of pointers would have to be relocated at each start.
 */
static const struct feature_register {
	uint32_t function, index;
	enum cpuid_register which;
	uint32_t ignored;
	char names[NAMES_BYTES];
} registers[] = {
	{ 1, 0, EDX, 0,
		"fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov "
		"pat pse36 pn clflush - dts acpi mmx fxsr sse sse2 ss ht tm ia64 pbe" },
	{ 1, 0, ECX, LEAF1_ECX_OSXSAVE,
		"pni pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm "
		"- pcid dca sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave osxsave avx f16c rdrand hypervisor" },
	{ 7, 0, EBX, 0,
		"fsgsbase tsc_adjust sgx bmi1 hle avx2 fdp_excptn_only smep bmi2 erms invpcid rtm cqm zero_fcs_fds mpx rdt_a "
		"avx512f avx512dq rdseed adx smap avx512ifma pcommit clflushopt clwb intel_pt avx512pf avx512er avx512cd "
		"sha_ni avx512bw avx512vl" },
	{ 7, 0, ECX, LEAF7_ECX_OSPKE,
		"prefetchwt1 avx512vbmi umip pku ospke waitpkg avx512_vbmi2 user_shstk gfni vaes vpclmulqdq avx512_vnni "
		"avx512_bitalg tme avx512_vpopcntdq - la57 - - - - - rdpid key_locker bus_lock_detect cldemote - movdiri "
		"movdir64b enqcmd sgx_lc pks" },
	{ 7, 0, EDX, 0,
		"- sgx_keys avx512_4vnniw avx512_4fmaps fsrm uintr - - avx512_vp2intersect srbds_ctrl md_clear "
		"rtm_always_abort - tsx_force_abort serialize hybrid_cpu tsxldtrk - pconfig arch_lbr ibt - amx_bf16 "
		"avx512_fp16 amx_tile amx_int8 spec_ctrl intel_stibp flush_l1d arch_capabilities core_capabilities ssbd" },
	{ 7, 1, EAX, 0,
		"sha512 sm3 sm4 rao_int avx_vnni avx512_bf16 lass cmpccxadd arch_perfmon_ext - fzrm fsrs fsrc - - - "
		"- fred lkgs wrmsrns nmi_source amx_fp16 hreset avx_ifma - - lam msrlist" },
	{ 7, 1, EDX, 0,
		"- - - - avx_vnni_int8 avx_ne_convert - - amx_complex - avx_vnni_int16 - - - prefetchiti - - - - avx10" },
	{ 7, 2, EDX, 0, "intel_psfd ipred_ctrl rrsba_ctrl ddpd_u bhi_ctrl mcdt_no" },
	{ 0xa, 0, EAX, 0, "" },
	{ 0xd, 0, EAX, 0, "" },
	{ 0xd, 1, EAX, 0, "xsaveopt xsavec xgetbv1 xsaves xfd" },
	{ 0x1c, 0, EAX, 0, "" },
	{ 0x40000001, 0, EAX, 0,
		"kvm_clocksource kvm_nop_io_delay kvm_mmu_op kvm_clocksource2 kvm_async_pf kvm_steal_time kvm_pv_eoi "
		"kvm_pv_unhalt - kvm_pv_tlb_flush kvm_async_pf_vmexit kvm_pv_send_ipi kvm_poll_control kvm_pv_sched_yield "
		"kvm_async_pf_int kvm_msi_ext_dest_id kvm_hc_map_gpa_range kvm_migration_control" },
	/* Whether a checkpoint is wanted is a matter of each start. */
	{ KARMA_CPUID_ABI, 0, EBX, KARMA_FEATURE_CHECKPOINT, "" },
	{ 0x80000001, 0, EDX, 0,
		"fpu vme de pse tsc msr pae mce cx8 apic - syscall mtrr pge mca cmov "
		"pat pse36 - mp nx - mmxext mmx fxsr fxsr_opt pdpe1gb rdtscp - lm 3dnowext 3dnow" },
	{ 0x80000001, 0, ECX, 0,
		"lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt - lwp "
		"fma4 tce - nodeid_msr - tbm topoext perfctr_core perfctr_nb - bpext ptsc perfctr_llc mwaitx" },
	{ 0x80000007, 0, EDX, 0, "- - - - - - - - constant_tsc" },
	{ 0x80000008, 0, EBX, 0,
		"clzero irperf xsaveerptr - rdpru - - - - wbnoinvd - - ibpb - ibrs stibp "
		"- stibp_always_on - - - - - amd_ppin amd_ssbd virt_ssbd amd_ssb_no cppc amd_psfd btc_no ibpb_ret" },
	{ 0x80000021, 0, EAX, 0,
		"no_nested_data_bp - lfence_rdtsc - - - null_sel_clr_base - autoibrs no_smm_ctl_msr" },
	{ 0x80000022, 0, EAX, 0, "" },
};

/* As KVM finds it: the first that has the function, and the index unless that means nothing. */
static uint32_t find(const struct kvm_cpuid2 *cpuid, uint32_t function, uint32_t index, enum cpuid_register which)
{
	for (unsigned i = 0; i < cpuid->nent; i++) {
		const struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];
		const uint32_t values[] = { entry->eax, entry->ebx, entry->ecx, entry->edx };

		if (entry->function == function &&
			(!(entry->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || entry->index == index))
			return values[which];
	}
	return 0;
}

/* Behind what is there; dots, once, where there is no room for more. */
static void add_name(char *names, size_t size, const char *name, int length)
{
	size_t used = strlen(names);

	if (used && names[used - 1] == '.')
		return;
	if (used + length + 2 * sizeof(", ...") > size)
		snprintf(names + used, size - used, ", ...");
	else
		snprintf(names + used, size - used, "%s%.*s", used ? ", " : "", length, name);
}

static void name_bit(const struct feature_register *in, unsigned bit, char *names, size_t size)
{
	static const char register_names[][4] = { "EAX", "EBX", "ECX", "EDX" };
	const char *name = in->names;
	char plain[48];

	for (unsigned i = 0; i < bit && *name; i++) {
		name += strcspn(name, " ");
		name += *name == ' ';
	}
	if (*name && *name != '-') {
		add_name(names, size, name, strcspn(name, " "));
		return;
	}
	add_name(names, size, plain,
		snprintf(plain, sizeof(plain), "bit %u of %s of CPUID %#x.%u", bit, register_names[in->which],
			in->function, in->index));
}

unsigned cpuid_missing(const struct kvm_cpuid2 *wanted, const struct kvm_cpuid2 *have, char *names, size_t size)
{
	unsigned count = 0;

	names[0] = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(registers); i++) {
		const struct feature_register *in = &registers[i];
		uint32_t missing = find(wanted, in->function, in->index, in->which) &
			~find(have, in->function, in->index, in->which) & ~in->ignored;

		for (; missing; missing &= missing - 1, count++)
			name_bit(in, __builtin_ctz(missing), names, size);
	}
	return count;
}

bool cpuid_same_vendor(const struct kvm_cpuid2 *wanted, const struct kvm_cpuid2 *have)
{
	for (enum cpuid_register which = EBX; which <= EDX; which++) {
		if (find(wanted, 0, 0, which) != find(have, 0, 0, which))
			return false;
	}
	return true;
}
