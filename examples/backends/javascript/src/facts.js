// What the host tells about itself, gathered once for each call.

import * as host from 'casemate:tee/facts@1.0.0';

export const SEV_DEVICE = '/dev/sev';
export const MODULE_SEV = '/sys/module/kvm_amd/parameters/sev';
export const MODULE_SEV_ES = '/sys/module/kvm_amd/parameters/sev_es';
export const GUEST_TYPE = 'sev-guest';
// The leaf of CPUID with the maker of the CPU.
export const CPUID_MAKER = 0x0;

// `{ value }`, or `{ failure, reason }` with failure `absent`, `denied` or `failed`. A function of
// the contract that returns a `result` throws what is wrong as `payload`.
function ask(question) {
  try {
    return { value: question() };
  } catch (error) {
    const { tag, val } = error?.payload ?? {};
    return { failure: tag ?? 'failed', reason: val ?? String(error) };
  }
}

export const gather = (machine) => ({
  kvm: ask(() => host.device('/dev/kvm')),
  maker: ask(() => host.cpuid(CPUID_MAKER, 0)),
  sev: ask(() => host.readText(MODULE_SEV)),
  sevEs: ask(() => host.readText(MODULE_SEV_ES)),
  sevDevice: ask(() => host.device(SEV_DEVICE)),
  guestType: ask(() => host.qemuType(GUEST_TYPE)),
  machine: ask(() => host.qemuMachine(machine)),
});
