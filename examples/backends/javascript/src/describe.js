// What this backend is, and the most that it may have.

import { CPUID_MAKER, GUEST_TYPE, MODULE_SEV, MODULE_SEV_ES, SEV_DEVICE } from './facts.js';
import { announced } from './settings.js';

const need = (fact, pattern, reason) => ({ fact, pattern, reason });
const hexadecimal = (leaf) => `0x${leaf.toString(16)}`;

export const describe = () => ({
  tee: 'csv',
  protection: 'guard',
  name: 'csv-javascript',
  vendor: 'Casemate examples',
  version: '0.1.0',
  architectures: ['x86_64'],
  needs: [
    need('device', '/dev/kvm', 'whether KVM can be used'),
    need('cpuid', hexadecimal(CPUID_MAKER), 'whether the CPU is one of Hygon'),
    need('read-text', MODULE_SEV, 'whether KVM makes CSV guests'),
    need('read-text', MODULE_SEV_ES, 'whether KVM makes CSV2 guests'),
    need('device', SEV_DEVICE, 'whether the security processor can be used'),
    need('qemu-machine', '*', 'the versioned name of the machine'),
    need('qemu-type', GUEST_TYPE, 'whether this QEMU makes CSV guests'),
  ],
  objects: [
    {
      kind: GUEST_TYPE,
      properties: ['cbitpos', 'reduced-phys-bits', 'policy', 'sev-device', 'kernel-hashes'],
      paths: ['sev-device'],
    },
  ],
  devices: [],
  machineTexts: [],
  settings: announced(),
  firmwareFeatures: ['amd-sev'],
  extras: [
    { key: `qemu-since:${GUEST_TYPE}`, value: '2.12' },
    { key: `qemu-since:${GUEST_TYPE}.kernel-hashes`, value: '6.2' },
    { key: 'identity', value: 'none' },
  ],
});
